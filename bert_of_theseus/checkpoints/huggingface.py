"""Hugging Face directories: `config.json`, the weights in one file or in shards, the tokenizer."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

from ..files import read_json
from .base import Checkpoint, missing_file
from .families import SEQUENCE, TOKEN

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
# In the order in which `transformers` looks for them.
WEIGHT_FILES = (SINGLE_FILE, SHARD_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")

# safetensors' names of the types that weights are stored in.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class HuggingFaceCheckpoint(Checkpoint):
    """An encoder as `transformers` saves it: `model.safetensors`, or `pytorch_model.bin`.

    Either may be one file, or shards with an index. The second kind is opened by PyTorch, which
    reads tensors from it and runs no code.
    """

    format = "Hugging Face directory"

    @staticmethod
    def find_tensors(directory: Path) -> list[Path]:
        """The file with the weights, or the index of its shards: a list of one path, or of none."""
        paths = [directory / name for name in WEIGHT_FILES]
        return [path for path in paths if path.is_file()][:1]

    @property
    def config_file(self) -> Path:
        path = self.directory / "config.json"
        if not path.is_file():
            raise missing_file(self.directory, f"config.json (beside {SINGLE_FILE})")
        return path

    def stored_name(self, name):
        return self._stored.get(name) or self.family.stored(name, self._kind)

    def _dtypes_and_shapes(self):
        found, self._torch = {}, {}
        for path in self.tensor_files:
            for stored, (dtype, shape) in self._open(path).items():
                if stored in found:
                    raise ValueError(
                        f"{str(path)!r} and {str(found[stored][0])!r} hold {stored!r}."
                    )
                found[stored] = (path, dtype, shape)
        self._files, self._stored, contents = {}, {}, {}
        for stored, name in self.family.canonical_names(found).items():
            path, dtype, shape = found[stored]
            if name in contents:
                first = self._stored[name]
                raise ValueError(f"{str(path)!r} holds {stored!r} and {first!r}, the same tensor.")
            if name.endswith("/kernel") and len(shape) == 2:
                shape = shape[::-1]
            contents[name] = (dtype, shape)
            self._stored[name] = stored
            self._files[name] = path
        self._kind = None
        if any(stored.startswith(f"{self.family.prefix}.") for stored in found):
            output = self._stored.get("classifier/kernel", f"{self.family.output}.weight")
            self._kind = SEQUENCE if output == f"{self.family.output}.weight" else TOKEN
        return contents

    @property
    def tensor_files(self) -> list[Path]:
        found = self.find_tensors(self.directory)
        if not found:
            raise missing_file(self.directory, ", ".join(WEIGHT_FILES))
        if not found[0].name.endswith(".index.json"):
            return found
        shards = read_json(found[0]).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{str(found[0])!r} must map tensors to files in 'weight_map'.")
        names = sorted(set(map(str, shards.values())))
        suffix = Path(found[0].name.removesuffix(".index.json")).suffix
        outside = [n for n in names if Path(n).name != n or Path(n).suffix != suffix]
        if outside:
            raise ValueError(
                f"{str(found[0])!r} must name {suffix} files beside it. Received: "
                f"{', '.join(outside)}."
            )
        missing = [name for name in names if not (self.directory / name).is_file()]
        if missing:
            raise missing_file(self.directory, f"{', '.join(missing)} (listed in {found[0].name})")
        return [self.directory / name for name in names]

    def _open(self, path: Path) -> dict:
        """The table of contents of one file: dtype and stored shape by stored name."""
        if path.suffix == ".bin":
            self._torch[path] = _load_torch(path)
            return {
                name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
                for name, tensor in self._torch[path].items()
            }
        with _opened(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape()))
                for name, s in slices.items()
            }

    def _read(self, name):
        path, stored = self._files[name], self._stored[name]
        if path in self._torch:
            value = self._torch[path][stored].float().numpy()
        else:
            if self.dtype(name) == "bfloat16":
                import ml_dtypes  # noqa: F401  registers the type with NumPy

            with _opened(path) as file:
                value = file.get_tensor(stored)
        return value.T if name.endswith("/kernel") and value.ndim == 2 else value


@contextlib.contextmanager
def _opened(path: Path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or corrupt: {error}.") from error


def _load_torch(path: Path) -> dict:
    """The tensors of a file that `torch.save` wrote; its pickle may hold nothing else."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} is a file of PyTorch, which is not installed: `pip install torch`, or "
            f"save the model as {SINGLE_FILE}."
        ) from error
    try:
        # A mapped file is read where a tensor is used. Files from before PyTorch 1.6 are no zip.
        is_mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:  # of any class, as the damage has it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{str(path)!r} is truncated or corrupt, or holds more than tensors: {reason}"
        ) from error
    plain = isinstance(content, dict) and all(
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        for name, tensor in content.items()
    )
    if not plain:
        raise ValueError(f"{str(path)!r} must hold a dict of tensors by name, and nothing else.")
    return content
