"""Hugging Face directories: `config.json`, `model.safetensors`, `vocab.txt`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ..files import read_json
from .base import Checkpoint, missing_file

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"

# safetensors' names of the types that weights are stored in.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# Names that the rules below do not cover. Both formats store the next-sentence kernel as
# (2, hidden_size), so it is not transposed and is not called a kernel.
_SPECIAL = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}
_SPECIAL_BACK = {canonical: stored for stored, canonical in _SPECIAL.items()}

_ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")


def to_canonical(name: str) -> str:
    """Google's name of a tensor, from Hugging Face's.

    `BertModel` saves `embeddings...`, models with a head save `bert.embeddings...`; files older
    than 2019 call LayerNorm's weights `gamma` and `beta`.

    Example:
        >>> to_canonical("bert.encoder.layer.0.attention.self.query.weight")
        'bert/encoder/layer_0/attention/self/query/kernel'
        >>> to_canonical("embeddings.LayerNorm.bias")
        'bert/embeddings/LayerNorm/beta'
    """
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name.startswith(_ENCODER_PARTS):
        name = "bert." + name
    name = re.sub(r"^bert\.encoder\.layer\.(\d+)\.", r"bert.encoder.layer_\1.", name)
    name = re.sub(r"\.LayerNorm\.weight$", ".LayerNorm.gamma", name)
    name = re.sub(r"\.LayerNorm\.bias$", ".LayerNorm.beta", name)
    name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
    name = re.sub(r"\.weight$", ".kernel", name)
    return name.replace(".", "/")


def from_canonical(name: str, prefix: str = "") -> str:
    """Hugging Face's name of a tensor, from Google's: the inverse of `to_canonical`.

    Args:
        name: As in a Google checkpoint.
        prefix: `"bert."` for the file of a model with a head.

    Example:
        >>> from_canonical("bert/encoder/layer_0/attention/self/query/kernel")
        'encoder.layer.0.attention.self.query.weight'
    """
    if name in _SPECIAL_BACK:
        return _SPECIAL_BACK[name]
    name = re.sub(r"^bert/encoder/layer_(\d+)/", r"bert/encoder/layer/\1/", name)
    name = re.sub(r"/(kernel|gamma)$", "/weight", name)
    name = re.sub(r"/beta$", "/bias", name)
    name = re.sub(r"_embeddings$", "_embeddings/weight", name)
    name = name.replace("/", ".")
    return prefix + name[len("bert.") :] if name.startswith("bert.") else name


class HuggingFaceCheckpoint(Checkpoint):
    """A BERT as `transformers` saves it: one `model.safetensors`, or shards with an index."""

    format = "Hugging Face directory"

    @staticmethod
    def find_tensors(directory: Path) -> list[Path]:
        """`model.safetensors` or the index of shards: a list of one path, or of none."""
        paths = [directory / SINGLE_FILE, directory / SHARD_INDEX]
        return [path for path in paths if path.is_file()][:1]

    @property
    def config_file(self) -> Path:
        path = self.directory / "config.json"
        if not path.is_file():
            raise missing_file(self.directory, f"config.json (beside {SINGLE_FILE})")
        return path

    def stored_name(self, name):
        return self._stored.get(name) or from_canonical(name, self._prefix)

    def _dtypes_and_shapes(self):
        self._files, self._stored = {}, {}
        contents = {}
        for path in self.tensor_files:
            for stored, (dtype, shape) in self._open(path).items():
                name = to_canonical(stored)
                if name in contents:
                    first = self._stored[name]
                    raise ValueError(
                        f"{str(path)!r} holds {stored!r} and {first!r}, the same tensor."
                    )
                if name.endswith("/kernel") and len(shape) == 2:
                    shape = shape[::-1]
                contents[name] = (dtype, shape)
                self._stored[name] = stored
                self._files[name] = path
        self._prefix = "bert." if any(s.startswith("bert.") for s in self._stored.values()) else ""
        return contents

    @property
    def tensor_files(self) -> list[Path]:
        found = self.find_tensors(self.directory)
        if not found:
            raise missing_file(self.directory, f"{SINGLE_FILE} or {SHARD_INDEX}")
        if found[0].name == SINGLE_FILE:
            return found
        shards = read_json(found[0]).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{str(found[0])!r} must map tensors to files in 'weight_map'.")
        names = sorted(set(map(str, shards.values())))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(
                f"{str(found[0])!r} must name files beside it. Received: {', '.join(outside)}."
            )
        missing = [name for name in names if not (self.directory / name).is_file()]
        if missing:
            raise missing_file(self.directory, f"{', '.join(missing)} (listed in {SHARD_INDEX})")
        return [self.directory / name for name in names]

    def _open(self, path: Path) -> dict:
        """The table of contents of one file: dtype and stored shape by stored name."""
        with _opened(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape()))
                for name, s in slices.items()
            }

    def _read(self, name):
        if self.dtype(name) == "bfloat16":
            import ml_dtypes  # noqa: F401  registers the type with NumPy

        with _opened(self._files[name]) as file:
            value = file.get_tensor(self._stored[name])
        return value.T if name.endswith("/kernel") and value.ndim == 2 else value


@contextlib.contextmanager
def _opened(path: Path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or corrupt: {error}.") from error
