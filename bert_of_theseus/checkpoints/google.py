"""Google's TensorFlow checkpoints: `bert_config.json`, `bert_model.ckpt.*`, `vocab.txt`."""

from __future__ import annotations

import re
from pathlib import Path

from ..validation import is_integer
from .base import Checkpoint, missing_file

# TensorFlow's C++ reader raises Python errors that depend on the damage: an IndexError for a short
# read, a DataLossError or RuntimeError for a wrong checksum.
_READER_ERRORS = (RuntimeError, ValueError, LookupError)


class GoogleCheckpoint(Checkpoint):
    """A TensorFlow checkpoint in the layout of Google's BERT and the Chinese RoBERTa-wwm.

    The config is `bert_config.json`, or else the only `bert_config*.json` (`bert_config_rbt3.json`)
    or `config.json`; the tensors are the only `*.ckpt*.index` with its `.data-*` files.
    """

    format = "Google TensorFlow checkpoint"
    families = ("bert",)

    @staticmethod
    def find_tensors(directory: Path) -> list[Path]:
        """The index files of the TensorFlow checkpoints in a folder."""
        return sorted(directory.glob("*.ckpt*.index"))

    @property
    def config_file(self) -> Path:
        for pattern in ("bert_config.json", "bert_config*.json", "config.json"):
            found = sorted(self.directory.glob(pattern))
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(path.name for path in found)
                raise ValueError(f"{str(self.directory)!r} holds several configs: {names}.")
        raise missing_file(self.directory, "bert_config.json (beside a TensorFlow checkpoint)")

    @property
    def tensor_files(self) -> list[Path]:
        return [self._index, *self.directory.glob(f"{self._index.stem}.data-*")]

    def __init__(self, directory):
        super().__init__(directory)
        # Of no BERT but bert4keras', whose config may have any name.
        size = self.raw_config.get("embedding_size")
        if size is not None:
            if not is_integer(size) or size < 1:
                raise ValueError(
                    f"{str(self.config_file)!r} cannot be used: embedding_size must be a positive "
                    f"integer, not {size!r:.60}."
                )
            self.config["embedding_size"] = size

    def _dtypes_and_shapes(self):
        import tensorflow as tf

        indexes = self.find_tensors(self.directory)
        if not indexes:
            raise missing_file(self.directory, "a *.ckpt*.index file")
        if len(indexes) > 1:
            names = ", ".join(path.name for path in indexes)
            raise ValueError(
                f"{str(self.directory)!r} holds several TensorFlow checkpoints ({names}); move the "
                "one to use into a folder of its own."
            )
        self._index = indexes[0]
        prefix = self._index.with_suffix("")
        self._check_data_files(prefix)
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        except (tf.errors.OpError, *_READER_ERRORS) as error:
            raise _corrupt(self._index, error) from error
        return {name: (dtypes[name].name, tuple(shape)) for name, shape in shapes.items()}

    def _check_data_files(self, prefix: Path) -> None:
        # The reader opens only the index; a missing part would show up tensors later.
        found = {path.name for path in self.directory.iterdir()}
        pattern = re.compile(re.escape(prefix.name) + r"\.data-\d{5}-of-(\d{5})")
        counts = {int(match[1]) for match in map(pattern.fullmatch, found) if match} or {1}
        wanted = [f"{prefix.name}.data-{i:05d}-of-{max(counts):05d}" for i in range(max(counts))]
        missing = [name for name in wanted if name not in found]
        if missing:
            raise missing_file(self.directory, ", ".join(missing))

    def _read(self, name):
        import tensorflow as tf

        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, *_READER_ERRORS) as error:
            raise _corrupt(self._index, error, name) from error


def _corrupt(index: Path, error: Exception, name: str | None = None) -> ValueError:
    where = f" at {name!r}" if name else ""
    files = f"{str(index)!r} or its .data file"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"{files} is truncated or corrupt{where}: {reason}")
