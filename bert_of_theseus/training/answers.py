"""A teacher's answers: computed once, kept on disk, and read by the numbers of the examples.

A folder of answers holds `answers.npy`, in float32 as the model computes them: rounded to float16
they would be other targets. `answers.json` says whose answers to which examples they are, and
`checksums.json` whether they are whole. A killed run continues where it was.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..backend import keras, to_numpy
from ..distribution import has_workers
from ..files import (
    check_files,
    check_room,
    read_json,
    remove_listed_file,
    replace_file,
    replace_listed_file,
    write_json,
)
from ..locks import exclusive
from ..models.teacher import ANSWERS, INPUTS, PADDING_MASK, take_apart
from ..validation import is_integer
from .examples import Numbers, summary
from .feed import BatchAccess, named_leaves
from .identity import architecture, plain

# In a file, of which a killed process loses at most one.
_BATCHES_PER_PIECE = 16
_VALUES, _KEY, _PIECES = "answers.npy", "answers.json", "pieces"


class Answers:
    """A model's outputs for each example, read from a file as they are needed.

    Args:
        values: Array of shape `(examples, ...)`, or `(tokens of all examples, outputs)`.
        lengths: The number of tokens of each example, for outputs per token; `None` otherwise.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray | None = None):
        self.values = values
        self._ends = None if lengths is None else np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.values if self._ends is None else self._ends)

    def __getitem__(self, row: int) -> np.ndarray:
        """The outputs for one example, of shape `(...)` or `(tokens, outputs)`."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        if self._ends is None:
            return np.array(self.values[row])
        return np.array(self.values[self._ends[row - 1] if row else 0 : self._ends[row]])

    def batch(self, rows: Sequence[int], length: int | None = None) -> tuple:
        """The outputs for some examples, and which positions have one.

        Args:
            rows: Their numbers.
            length: Integer, to which outputs per token are padded, with zeros.

        Returns:
            An array of shape `(len(rows), ...)` or `(len(rows), length, outputs)`; and `None`, or a
            boolean array of shape `(len(rows), length)`.
        """
        if self._ends is None:
            return np.array(self.values[rows]), None
        parts = [self[row] for row in rows]
        outputs = np.zeros((len(rows), length, self.values.shape[-1]), "float32")
        for output, part in zip(outputs, parts):
            output[: len(part)] = part
        counts = np.array([len(part) for part in parts])
        return outputs, np.arange(length) < counts[:, None]


# What a distilled model learns from.


class Lessons:
    """The batches of a distilled model, with its teacher's answers in place of the teacher.

    Args:
        model: `TaughtModel`, which takes such batches.
        batches: `BatchAccess`.
        answers: `Answers` to its examples.
    """

    def __init__(self, model: keras.Model, batches: BatchAccess, answers: Answers):
        self.model, self.batches, self.answers = model, batches, answers

    def add(self, batch: tuple, epoch: int, index: int) -> tuple:
        """`batch`, which is batch `index` of `epoch`, with the answers to its examples."""
        inputs, *rest = batch
        rows, first = _numbers(self.batches, epoch, index, batch, len(self.answers))
        outputs, mask = self.answers.batch(rows, *first.shape[1:2])
        lesson = {INPUTS: inputs, ANSWERS: outputs}
        return (lesson if mask is None else {**lesson, PADDING_MASK: mask}, *rest)


def _numbers(batches, epoch, index, batch, count=math.inf):
    """The numbers of the examples in `batch`, which is batch `index`; its first array."""
    rows, first = batches.rows(epoch, index), next(iter(named_leaves(batch).values()))
    if rows.shape != first.shape[:1] or not 0 <= rows.min() <= rows.max() < count:
        batches.problem = ValueError(
            "`rows_of` must return a number for each example of a batch, from 0 on and below the "
            f"number of all. Received: {rows} for the {len(first)} examples of batch {index}"
        )
        raise batches.problem
    return rows, first


def prepare_lessons(
    model: keras.Model,
    batches: BatchAccess,
    steps: int,
    directory: str | os.PathLike,
    verbose="auto",
) -> Lessons | None:
    """Has the teacher of a distilled model answer all examples, or reads what it has answered.

    Answers that are another teacher's, to other examples, or damaged are made again.

    Args:
        model: Keras model, distilled or not.
        batches: `BatchAccess`, the training data.
        steps: Integer, how many steps the training has.
        directory: Folder of the answers, created if it is missing.
        verbose: As in Keras' `fit`.

    Returns:
        `Lessons`; `None` if there is no teacher, or if it has to run in each step: see the
        message.

    Raises:
        InUseError: if another run uses the folder.
        ArithmeticError, OSError, ValueError: as in `compute_answers`.
    """
    parts = take_apart(model)
    if parts is None:
        return None
    taught, teacher = parts
    examples = summary(batches).numbered
    problem, lengths = _form(teacher, batches, examples, steps)
    if problem is not None:
        if verbose:
            print(f"The teacher runs in each step: {problem}", flush=True)
        return None
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    key = {**model_key(teacher), "examples": examples}
    with exclusive(directory / ".lock", str(directory)):
        answers = compute_answers(
            teacher, batches, directory, key, lengths, verbose, name="teacher", replaces=True
        )
    return Lessons(taught, batches, answers)


def _form(teacher, batches, examples, steps):
    """Why the teacher has to run in each step, or `None`; and `lengths`, as in `Answers`."""
    shape = tuple(teacher.outputs[0].shape)
    varies = None in shape[1:] and not batches.is_arrays
    lengths = getattr(batches.data, "lengths", None) if varies else None
    if examples is None:
        problem = "the data do not tell which examples are in a batch"
    elif steps < batches.length:
        problem = "the stage is shorter than an epoch"
    elif has_workers():
        problem = "several processes train one model"
    elif varies and (len(shape) != 3 or shape[2] is None):
        problem = f"its outputs, {shape}, are of many shapes"
    elif varies and lengths is None:
        problem = "its outputs are per token, and the data have no `lengths`"
    else:
        problem = None
    return problem, None if lengths is None else np.asarray(lengths)


# The files.


def model_key(model: keras.Model) -> dict:
    """What tells a model from all others: of equal ones, all outputs are equal.

    Input layers do not count. A teacher gets its inputs through those of its student, and stages
    have different students.
    """
    weights = hashlib.sha256()
    for weight in model.weights:
        value = to_numpy(weight)
        weights.update(f"{value.shape} {value.dtype}".encode())
        weights.update(np.ascontiguousarray(value).view("uint8"))
    layers = [layer for layer in architecture(model) if layer["layer"] != "InputLayer"]
    layers = json.dumps(plain(layers), sort_keys=True)
    return {
        "layers": hashlib.sha256(layers.encode()).hexdigest(),
        "weights": weights.hexdigest(),
    }


def read_answers(directory: Path, key: dict, lengths: np.ndarray | None = None) -> Answers | None:
    """The answers in a folder; `None` if there are none, or not all of them.

    Args:
        directory: The folder.
        key: Dict that tells a model and its examples from others.
        lengths: As in `Answers`.

    Raises:
        ValueError: if they are those of another model or to other examples, or are damaged.
    """
    path, values = directory / _KEY, directory / _VALUES
    if not path.exists() and not values.exists():
        return None
    before = read_json(path) if path.exists() else {}
    differing = [name for name in key if before.get(name) != key[name]]
    if differing:
        raise ValueError(
            f"{directory} holds the answers of another model or to other texts (other "
            f"{', '.join(differing)}). Choose another folder, or delete this one to compute them "
            "again."
        )
    if not values.exists():
        return None
    check_files(directory, [_VALUES])
    return Answers(np.load(values, mmap_mode="r", allow_pickle=False), lengths)


def remove_answers(directory: Path) -> None:
    """Removes the files of answers from a folder, and nothing else."""
    remove_listed_file(directory / _VALUES)
    (directory / _KEY).unlink(missing_ok=True)
    shutil.rmtree(directory / _PIECES, ignore_errors=True)


def compute_answers(
    model,
    batches: BatchAccess,
    directory: Path,
    key: dict,
    lengths: np.ndarray | None = None,
    verbose="auto",
    name: str = "model",
    replaces: bool = False,
) -> Answers:
    """Reads the answers of `model` to all examples, or computes those that are missing.

    Args:
        model: Keras model with one output.
        batches: `BatchAccess` that tells the numbers of its examples.
        directory: The folder, created if it is missing.
        key: As in `read_answers`.
        lengths: As in `Answers`.
        verbose: Whether to say what is computed, with a progress bar on a terminal. Defaults to
            `"auto"`, yes.
        name: String, what a message calls the model. Defaults to `"model"`.
        replaces: Boolean. Whether answers that `read_answers` refuses are removed, and computed
            again. Defaults to `False`.

    Raises:
        ArithmeticError: if an answer is NaN or infinite.
        OSError: if a file cannot be written.
        ValueError: if there are lengths, and the outputs are not one per token; if the numbers of
            the examples are not 0, 1, 2, ... once each; or, unless `replaces`, as in
            `read_answers`.
    """
    try:
        answers = read_answers(directory, key, lengths)
        if answers is not None:
            return answers
    except ValueError:
        if not replaces:
            raise
        if verbose:
            what = f"another {name}'s, to other examples, or damaged"
            print(f"The answers in {directory} are {what}: they are made again", flush=True)
        remove_answers(directory)
    if verbose:
        count = getattr(batches.data, "count", None)
        what = f"{count} examples" if is_integer(count) else "all examples"
        print(f"The {name} answers {what}", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / _KEY, key)
    # What a killed run has left is of use if it had the same batches.
    first = [batches.rows(0, i) for i in range(min(_BATCHES_PER_PIECE, batches.length))]
    tag = zlib.crc32(np.concatenate(first).astype("int64").tobytes(), batches.length)
    pieces = directory / _PIECES / f"{tag:08x}"
    files, count = _compute(model, batches, pieces, lengths, verbose)
    values = directory / _VALUES
    replace_listed_file(values, lambda scratch: _merge(files, count, lengths, scratch))
    shutil.rmtree(directory / _PIECES, ignore_errors=True)
    return Answers(np.load(values, mmap_mode="r", allow_pickle=False), lengths)


def _compute(model, batches, directory, lengths, verbose):
    """Computes the pieces that are missing or damaged.

    Returns the files of all pieces, and the number of examples.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shows = verbose and sys.stdout.isatty()
    bar = keras.utils.Progbar(batches.length, unit_name="batch").update if shows else None
    most = math.inf if lengths is None else len(lengths)
    numbers, files, has_room = Numbers(), [], False
    for start in range(0, batches.length, _BATCHES_PER_PIECE):
        files.append(directory / f"{start}.npz")
        kept = _read(files[-1])
        if kept is None:
            rows, values = [], []
            for index in range(start, min(start + _BATCHES_PER_PIECE, batches.length)):
                batch = batches.get(0, index)
                rows.append(_numbers(batches, 0, index, batch, most)[0])
                # A strategy of several devices answers to a batch several times.
                outputs = np.asarray(model.predict_on_batch(batch[0]))[: len(rows[-1])]
                if not has_room:
                    _check_room(directory, outputs, batches, lengths)
                    has_room = True
                values += _records(outputs.astype("<f4"), rows[-1], lengths)
                if bar:
                    bar(index + 1)
            kept = np.concatenate(rows).astype("int64"), np.concatenate(values)
            if not np.isfinite(kept[1]).all():
                raise ArithmeticError(
                    f"The answers of {model.name!r} hold NaN or infinite numbers."
                )
            replace_file(files[-1], functools.partial(np.savez, rows=kept[0], values=kept[1]))
        numbers.add(kept[0], np.zeros(len(kept[0]), "uint64"))
    count = numbers.count if lengths is None else len(lengths)
    if numbers.text is None or numbers.count != count:
        shutil.rmtree(directory)  # or the next call would take these numbers for right
        raise ValueError(
            f"`rows_of` must return the number of each example, from 0 to {count - 1}, once in an "
            f"epoch. Received: {numbers.count} numbers, which are not these"
        )
    return files, count


def _check_room(directory, outputs, batches, lengths):
    rows = batches.length * batches.batch_size
    count = rows * outputs[0].size
    if lengths is not None:
        count = int(lengths.sum()) * outputs.shape[-1]
    # In pieces, each with its examples' numbers and headers, and in the file that is made of them.
    pieces = math.ceil(batches.length / _BATCHES_PER_PIECE)
    size = 2 * 4 * count + 8 * rows + 1000 * pieces
    check_room(directory, size, names=["*.npz"], what="The teacher's answers")


def _records(outputs, rows, lengths):
    """A list of arrays, rows of the file, for the examples of a batch."""
    if lengths is None:
        return [outputs]
    if outputs.shape[1] < lengths[rows].max():
        raise ValueError(
            "`model` must have an output per token. Received: outputs of shape "
            f"{outputs.shape} for texts of {lengths[rows].max()} tokens"
        )
    return [output[: lengths[row]] for row, output in zip(rows, outputs)]


def _read(piece):
    """As `_load`; `None` if the piece is missing, or cannot be read whole."""
    with contextlib.suppress(Exception):  # whatever a damaged file raises
        return _load(piece)
    return None


def _load(piece):
    """The numbers of the examples in a piece, and the answers to them."""
    with open(piece, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        # NumPy compares no checksum where a changed header has it stop before the end.
        if file.zip.testzip() is not None:
            raise ValueError(f"{piece} is damaged")
        return file["rows"], file["values"]


def _merge(pieces, count, lengths, path):
    """Writes one `.npy` file in the order of the examples, with one piece in memory at a time."""
    _, values = _load(pieces[0])
    shape, width = values.shape[1:], values[0].nbytes
    starts = None if lengths is None else np.cumsum(lengths) - lengths
    size = count if lengths is None else int(lengths.sum())
    with open(path, "wb") as file:  # not mapped into memory: a full disk is an error then
        header = {"descr": "<f4", "fortran_order": False, "shape": (size, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        for piece in pieces:
            rows, values = _load(piece)
            if lengths is not None:
                values = np.split(values, np.cumsum(lengths[rows])[:-1])
            for start, value in zip(rows if lengths is None else starts[rows], values):
                file.seek(begin + width * int(start))
                file.write(value.tobytes())
