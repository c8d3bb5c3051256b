"""A teacher's answers: computed once, kept on disk, and read by the numbers of the examples.

A folder of answers holds `answers.npy`, in float32 as the model computes them: rounded to float16
they would be other targets. `answers.json` says whose answers to which examples they are, and
`checksums.json` whether they are whole. A killed run continues where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..backend import keras, to_numpy
from ..distribution import has_workers
from ..files import CHECKSUMS, check_files, read_json, replace_file, replace_listed_file, write_json
from ..locks import exclusive
from ..models.teacher import ANSWERS, INPUTS, PADDING_MASK, take_apart
from .examples import summary
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
        first = next(iter(named_leaves(batch).values()))
        outputs, mask = self.answers.batch(self.batches.rows(epoch, index), *first.shape[1:2])
        lesson = {INPUTS: inputs, ANSWERS: outputs}
        return (lesson if mask is None else {**lesson, PADDING_MASK: mask}, *rest)


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
    form, lengths = _form(teacher, batches)
    problem = None
    if examples is None:
        problem = "the data do not tell which examples are in a batch"
    elif steps < batches.length:
        problem = "the stage is shorter than an epoch"
    elif has_workers():
        problem = "several processes train one model"
    elif form is None:
        problem = f"its outputs, {tuple(teacher.outputs[0].shape)}, are of many shapes"
    if problem is not None:
        if verbose:
            print(f"The teacher runs in each step: {problem}", flush=True)
        return None
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    key = {**model_key(teacher), "examples": examples}
    with exclusive(directory / ".lock", str(directory)):
        answers = _read_or_compute(teacher, batches, directory, key, lengths, verbose)
    return Lessons(taught, batches, answers)


def _read_or_compute(teacher, batches, directory, key, lengths, verbose):
    try:
        answers = read_answers(directory, key, lengths)
    except ValueError:
        if verbose:
            what = "another teacher's, to other examples, or damaged"
            print(f"The answers in {directory} are {what}: they are made again", flush=True)
        remove_answers(directory)
        answers = None
    if answers is None:
        if verbose:
            print(f"The teacher answers {key['examples'].partition(',')[0]}", flush=True)
        answers = compute_answers(teacher, batches, directory, key, lengths, verbose)
    return answers


def _form(model, batches):
    """`"examples"` or `"tokens"`, what has an answer of one shape each, or `None`; lengths."""
    shape = tuple(model.outputs[0].shape)[1:]
    if None not in shape or batches.is_arrays:
        return "examples", None
    lengths = getattr(batches.data, "lengths", None)
    if lengths is None or len(shape) != 2 or shape[1] is None:
        return None, None
    return "tokens", np.asarray(lengths)


# The files.


def model_key(model: keras.Model) -> dict:
    """What tells a model from all others: of equal ones, all outputs are equal."""
    weights = hashlib.sha256()
    for weight in model.weights:
        value = to_numpy(weight)
        weights.update(f"{value.shape} {value.dtype}".encode())
        weights.update(np.ascontiguousarray(value).view("uint8"))
    layers = json.dumps(plain(architecture(model)), sort_keys=True)
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
    for name in (_VALUES, CHECKSUMS, _KEY):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / _PIECES, ignore_errors=True)


def compute_answers(
    model,
    batches: BatchAccess,
    directory: Path,
    key: dict,
    lengths: np.ndarray | None = None,
    verbose="auto",
) -> Answers:
    """Computes the answers of `model` to all examples, from where an earlier run was killed.

    Args:
        model: Keras model with one output.
        batches: `BatchAccess` that tells the numbers of its examples.
        directory: The folder, created if it is missing. It holds no answers to other examples.
        key: As in `read_answers`.
        lengths: As in `Answers`.
        verbose: Whether to show a progress bar on a terminal. Defaults to `"auto"`, yes.

    Raises:
        ArithmeticError: if an answer is NaN or infinite.
        OSError: if a file cannot be written.
        ValueError: if there are lengths, and the outputs are not one per token.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / _KEY, key)
    order = functools.partial(_order, batches)
    tag = 0
    for rows in order():
        tag = zlib.crc32(f"{len(rows)}".encode() + np.asarray(rows, "int64").tobytes(), tag)
    pieces = directory / _PIECES / f"{tag:08x}"
    files = _compute(model, batches, pieces, lengths, verbose)
    values = directory / _VALUES
    replace_listed_file(values, lambda scratch: _merge(files, order(), lengths, scratch))
    shutil.rmtree(directory / _PIECES, ignore_errors=True)
    return Answers(np.load(values, mmap_mode="r", allow_pickle=False), lengths)


def _order(batches):
    return (batches.rows(0, index) for index in range(batches.length))


def _compute(model, batches, directory, lengths, verbose):
    """Computes the pieces that are missing; returns the files of all of them, in order."""
    directory.mkdir(parents=True, exist_ok=True)
    shows = verbose and sys.stdout.isatty()
    bar = keras.utils.Progbar(batches.length, unit_name="batch").update if shows else None
    files = []
    for start in range(0, batches.length, _BATCHES_PER_PIECE):
        files.append(directory / f"{start}.npy")
        if files[-1].exists():
            continue
        parts = []
        for index in range(start, min(start + _BATCHES_PER_PIECE, batches.length)):
            inputs, rows = batches.get(0, index)[0], batches.rows(0, index)
            # A strategy of several devices answers to a batch several times.
            outputs = np.asarray(model.predict_on_batch(inputs))[: len(rows)].astype("float32")
            parts += _records(outputs, rows, lengths)
            if bar:
                bar(index + 1)
        values = np.concatenate(parts)
        if not np.isfinite(values).all():
            raise ArithmeticError(f"The answers of {model.name!r} hold NaN or infinite numbers.")
        replace_file(files[-1], functools.partial(np.save, arr=values))
    return files


def _records(outputs, rows, lengths):
    """A list of arrays, rows of the file, for each example of a batch."""
    if lengths is None:
        return list(outputs[:, None])
    if outputs.shape[1] < lengths[rows].max():
        raise ValueError(
            "`model` must have an output per token. Received: outputs of shape "
            f"{outputs.shape} for texts of {lengths[rows].max()} tokens"
        )
    return [output[: lengths[row]] for row, output in zip(rows, outputs)]


def _merge(files, order, lengths, path):
    """Writes one `.npy` file in the order of the examples, not holding all of it in memory."""
    rows = np.concatenate(list(order))
    sizes = np.ones(len(rows), int) if lengths is None else lengths
    starts = np.cumsum(sizes) - sizes
    shape = np.load(files[0], mmap_mode="r").shape[1:]
    width = 4 * int(np.prod(shape))
    header = {"descr": "<f4", "fortran_order": False, "shape": (int(sizes.sum()), *shape)}
    rows = iter(rows)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        for piece in files:
            values = np.load(piece, allow_pickle=False)
            end = 0
            while end < len(values):
                row = next(rows)
                start, end = end, end + sizes[row]
                file.seek(begin + width * int(starts[row]))
                file.write(values[start:end].astype("<f4").tobytes())
