"""The interface of both checkpoint formats: one config, one set of tensor names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from ..files import check_files
from .configs import read_config
from .families import FAMILIES, POOLER, Family, encoder_shapes, num_stored_layers

# Buffers of old PyTorch files: the numbers 0, 1, 2, ..., and zeros.
_BUFFERS = ("bert/embeddings/position_ids", "bert/embeddings/token_type_ids")
_DTYPES = ("float64", "float32", "float16", "bfloat16")


class Checkpoint:
    """A pretrained encoder on disk, read tensor by tensor.

    Opening one reads the config and the table of contents; `tensor` reads a tensor's values. All
    formats and families use the names and the orientation of Google's TensorFlow checkpoints
    (`bert/encoder/layer_0/output/dense/kernel`, kernels stored as `(input_size, output_size)`),
    which are also those of bert4keras' `variable_mapping()`.

    A format is a subclass with `config_file`, `tensor_files`, `_dtypes_and_shapes` and `_read`.

    Args:
        directory: The folder that holds the checkpoint.

    Attributes:
        directory: The folder, a `Path`.
        config: Dict of the encoder's hyperparameters under BERT's names, checked and complete:
            `model_type`; `vocab_size`, `hidden_size` and so on; `max_position_embeddings`, the
            number of tokens that a text may have; `type_vocab_size`, 0 if there are no token types;
            `hidden_act` by bert4keras' name; and, where a family has them, `embedding_size`,
            `position_offset` (the number of the first position), `num_hidden_groups`,
            `inner_group_num` and `position_buckets`.
        raw_config: Dict, the config file's content.
        family: A `Family`.
        names: The tensors' names, sorted.
    """

    format = "checkpoint"
    families: tuple[str, ...] = tuple(FAMILIES)
    _verified = False

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        path = self.config_file
        check_files(self.directory, [path.name])
        self.config, self.raw_config = read_config(path, self.families)
        self._contents = self._dtypes_and_shapes()
        self.names = sorted(self._contents)

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    @property
    def config_file(self) -> Path:
        """Path of the config."""
        raise NotImplementedError

    @property
    def tensor_files(self) -> list[Path]:
        """Paths of all files that the tensors are read from."""
        raise NotImplementedError

    @property
    def vocab_path(self) -> Path:
        """Path of `vocab.txt`; raises a `FileNotFoundError` if there is none."""
        path = self.directory / "vocab.txt"
        if not path.is_file():
            raise missing_file(self.directory, "vocab.txt")
        return path

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`, without reading its values."""
        return self._contents[name][1]

    def dtype(self, name: str) -> str:
        """Type that the tensor `name` is stored in, in NumPy's spelling."""
        return self._contents[name][0]

    def tensor(self, name: str):
        """The values of the tensor `name`, a float32 array.

        Raises:
            ValueError: if the file is truncated or corrupt.
        """
        if not self._verified:
            check_files(self.directory, [path.name for path in self.tensor_files])
            self._verified = True
        return self._read(name).astype("float32", copy=False)

    def tensors(self, names) -> dict:
        """The values of several tensors, by name.

        Raises:
            ValueError: if a file is truncated or corrupt, or holds NaN or infinity there.
        """
        values = {name: self.tensor(name) for name in names}
        broken = [name for name, value in values.items() if not np.isfinite(value).all()]
        if broken:
            raise ValueError(
                f"The {self.format} {str(self.directory)!r} holds NaN or infinity (nothing was "
                f"loaded): {', '.join(map(self.stored_name, broken))}."
            )
        return values

    def stored_name(self, name: str) -> str:
        """The name that the file gives to the tensor `name`, whether it holds it or not."""
        return name

    @property
    def left_out(self) -> list[str]:
        """Names of tensors outside the encoder that no fine-tuned model uses.

        These are the heads of pretraining, a pooler that the classifier does not use, and an
        optimizer's variables.
        """
        known = set(self.names)
        starts = self.family.pretraining
        return [
            name
            for name in self.names
            if self.shape(name) == ()
            or name.rpartition("/")[0] in known
            or name.startswith("encoder_pooler/")
            or self.stored_name(name).replace("/", ".").startswith(starts)
        ]

    def check(self) -> None:
        """Compares the table of contents with the config: the encoder's names, shapes and types.

        Nothing is read or built for it, so a config that asks for more than there is costs nothing.

        Raises:
            ValueError: if they differ. All tensors at fault are named at once.
        """
        problems = self._misfits()
        if problems:
            raise ValueError(
                f"The {self.format} {str(self.directory)!r} does not fit its "
                f"{self.config_file.name} (nothing was loaded):\n- " + "\n- ".join(problems)
            )

    def _misfits(self) -> list[str]:
        known, expected, problems = set(self.names), set(POOLER), []
        pattern = re.compile(r"bert/encoder/(?:layer_\d+|group_\d+/inner_\d+)(?=/)")
        found = len({match[0] for match in map(pattern.match, known) if match})
        wanted = num_stored_layers(self.config)
        if wanted != found:
            problems.append(f"the config has {wanted} layers, the file {found}")
        hidden = self.config["hidden_size"]
        pooler = [p for p in zip(POOLER, [(hidden, hidden), (hidden,)]) if p[0] in known]
        for name, shape in [*encoder_shapes(self.config, found), *pooler]:
            expected.add(name)
            if name not in known:
                problems.append(f"missing: {self.stored_name(name)}")
            else:
                problem = misfit(self, name, shape)
                if problem:
                    problems.append(f"{self.stored_name(name)}: {problem}")
        left_out = {*_BUFFERS, *self.left_out}
        problems += [
            f"not read: {self.stored_name(name)}"
            for name in self.names
            if name.startswith("bert/") and name not in expected and name not in left_out
            if not (wanted < found and pattern.match(name))
        ]
        outside = [n for n in self.names if not n.startswith("bert/") and n not in left_out]
        if outside and any(problem.startswith("missing") for problem in problems):
            stored = ", ".join(map(self.stored_name, outside))
            problems.append(f"heads, or others outside the encoder: {stored}")
        return problems

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"


def misfit(checkpoint: Checkpoint, name: str, shape: tuple) -> str | None:
    """What keeps a stored tensor from being the value of a weight of this shape."""
    found, dtype = checkpoint.shape(name), checkpoint.dtype(name)
    if dtype not in _DTYPES:
        return f"stored as {dtype}, expected a floating-point type"
    if found != shape:
        return f"shape {found}, expected {shape}" + (
            ", as (input_size, output_size)" if name.endswith("/kernel") else ""
        )
    return None


def missing_file(directory: str | os.PathLike, looked_for: str) -> FileNotFoundError:
    """An error that names what was looked for in `directory`, and what is there instead."""
    directory = Path(directory)
    if not directory.is_dir():
        what = "a file" if directory.exists() else "missing"
        return FileNotFoundError(f"{str(directory)!r} must be the folder of a model; it is {what}.")
    found = sorted(path.name + "/" * path.is_dir() for path in directory.iterdir())
    shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    return FileNotFoundError(
        f"{str(directory)!r} lacks what was looked for: {looked_for}. Found: {shown or 'nothing'}."
    )
