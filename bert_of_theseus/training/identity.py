"""What tells one training from another: functions, models, weights and versions, described."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import sys
import types
import zlib

import numpy as np

from .. import __version__
from ..backend import KERAS_ON_BACKEND, is_finite, keras, to_numpy

_SIMPLE = (str, bytes, int, float, complex, bool, type(None), type(...))
# Keras gives names that tell how many objects there are.
_NAMES = ("name", "_name", "_name_scope", "built")
# Their code is that of a version, which is told by its number.
_LIBRARIES = ("bert_of_theseus", "keras", "tf_keras", "keras_hub", "bert4keras", "tensorflow")


class _Seen(set):
    """The functions and objects that have been described. `attributes`: whether objects' count."""

    attributes = True


def described(value, attributes: bool = True):
    """Describes a loss, metric or function by name, config and code, alike in every process.

    Args:
        value: The loss, metric or function.
        attributes: Boolean. Whether the attributes of users' objects count. Defaults to `True`.
    """
    if isinstance(value, str):
        return value
    seen = _Seen()
    seen.attributes = attributes
    owner = getattr(value, "__self__", value)
    if hasattr(owner, "get_config"):
        config = owner.get_config()
        if isinstance(owner, keras.losses.Loss):  # its name tells how many there are
            config = {key: item for key, item in config.items() if key != "name"}
        return [*_kind(owner, seen), config, *_attributes(owner, seen)]
    if not _is_method(value):
        value = getattr(value, "__func__", value)  # of a class method
    functions = (types.FunctionType, types.MethodType, functools.partial)
    if isinstance(value, functions) and not _is_librarys(value):
        # Bytecode, defaults, what it is a closure over, and the functions and constants of its
        # module that it names, as they are now.
        name = getattr(value, "__qualname__", "partial")
        return f"{name} (code {_digest(_code(value, seen))})"
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    return " ".join([*_kind(value, seen), *_attributes(value, seen)])


def _is_method(value):
    return isinstance(value, types.MethodType) and not isinstance(value.__self__, type)


def _attributes(value, seen):
    """Checksum of the attributes of an object of a user's class; for others nothing."""
    if not seen.attributes or _is_librarys(type(value)) or isinstance(value, keras.Model):
        return []
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in _NAMES}
    if isinstance(value, keras.layers.Layer):  # which has a state; metrics of Keras 2 are layers
        simple = (str, int, float)
        own = {k: v for k, v in own.items() if k[0] != "_" and isinstance(v, simple)}
    found = [(key, _code(own[key], seen)) for key in sorted(own)]
    return [f"(attributes {_digest(found)})"] if found else []


def _kind(value, seen):
    """The class of `value` by name and, unless it is a library's, by the code of its methods."""
    kind = type(value)
    # What Keras wraps a function in.
    wrapped = getattr(value, "fn", None) or getattr(value, "_fn", None)
    code = [] if wrapped is None or _is_librarys(wrapped) else [described(wrapped)]
    if not _is_librarys(kind):
        own = vars(kind)
        methods = [own[name] for name in sorted(own) if _is_function(own[name])]
        code.append(f"(code {_digest([_code(method, _Seen(seen)) for method in methods])})")
    return [kind.__name__, *code]


def _is_librarys(value):
    return str(getattr(value, "__module__", "")).split(".")[0] in _LIBRARIES


def _is_function(value):
    return isinstance(value, types.FunctionType)


def _digest(value) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _code(value, seen):
    """`value`, for a checksum: a function by its code, and other objects by their types."""
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, (list, tuple)):
        return [_code(item, seen) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_code(item, seen)) for item in value)
    if isinstance(value, dict):
        return sorted((repr(key), _code(item, seen)) for key, item in value.items())
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "O":
        return _code(value.tolist(), seen)
    if isinstance(value, (np.ndarray, np.generic)):
        return [value.dtype.str, value.shape, zlib.crc32(np.ascontiguousarray(value).tobytes())]
    if isinstance(value, functools.partial):
        return [_code(part, seen) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, _code(value.co_consts, seen)]
    if _is_method(value):
        return [_code(value.__func__, seen), _code(value.__self__, seen)]
    if not _is_function(value):
        return _object(value, seen)
    if value in seen:
        return value.__qualname__
    seen.add(value)
    names = sorted(name for name in value.__code__.co_names if name in value.__globals__)
    around = [value.__globals__[name] for name in names]
    same = [x for x in around if isinstance(x, _SIMPLE) or _is_of(x, value.__module__)]
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    parts = (value.__defaults__, value.__kwdefaults__, cells, same)
    return [_code(value.__code__, seen), *(_code(part, seen) for part in parts)]


def _object(value, seen):
    """An object by its class; a loss, a metric, a tensor and a user's object by its content too."""
    if isinstance(value, (keras.losses.Loss, keras.metrics.Metric)):
        return described(value, seen.attributes)
    if hasattr(value, "__array__") and not hasattr(value, "assign"):  # no variable, which changes
        with contextlib.suppress(Exception):
            return _code(np.asarray(value.detach() if hasattr(value, "detach") else value), seen)
    root = type(value).__module__.split(".")[0]
    if root in sys.stdlib_module_names - {"__main__"} or id(value) in seen:
        return type(value).__name__
    seen.add(id(value))
    return [*_kind(value, seen), *_attributes(value, seen)]


def _is_of(value, module):
    return _is_function(value) and value.__module__ == module


def _is_filled(cell):
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def plain(settings):
    """Converts `settings` to plain JSON types, so that they equal those read from a file."""

    def default(value):
        if hasattr(value, "tolist"):  # NumPy's
            return value.tolist()
        return list(value) if isinstance(value, range) else described(value)

    return json.loads(json.dumps(settings, default=default))


# Models.

# Names differ with the order in which models are built; reseeding sets `rng_type` of Keras 2.
_LEFT_OUT = {"name", "rng_type", "layers", "input_layers", "output_layers", "build_config"}


def architecture(model: keras.Model) -> list[dict]:
    """The layers of `model`, those within layers included, each by its class and config."""
    layers = {id(layer): layer for layer in model._flatten_layers()}
    with _no_import_of_tensorflow():
        return [_layer(layer) for layer in layers.values()]


@contextlib.contextmanager
def _no_import_of_tensorflow():
    """A context in which Keras 3 does not import TensorFlow to see whether a value is one of its.

    On another backend that takes seconds. Nothing is TensorFlow's while it is not imported.
    """
    lazy = getattr(sys.modules.get("keras.src.utils.module_utils"), "tensorflow", None)
    if "tensorflow" in sys.modules or not hasattr(lazy, "_available"):
        yield
        return
    before, lazy._available = lazy._available, False
    try:
        yield
    finally:
        lazy._available = before


def _layer(layer):
    kind, *code = _kind(layer, _Seen())
    entry = {"layer": kind, **({"code": code} if code else {})}
    try:
        config = layer.get_config()
        entry.update(plain({key: value for key, value in config.items() if _counts(key, value)}))
        wiring = _wiring(config)
    # A user's layer may have no config, or one that is no JSON.
    except (NotImplementedError, TypeError, ValueError, RecursionError):
        return {**entry, "attributes": _attributes(layer, _Seen())}
    if wiring is not None:
        entry["wiring"] = wiring
    if callable(getattr(layer, "function", None)):  # a Lambda layer
        entry["function"] = described(layer.function)
    return entry


def _counts(key, value):
    """Whether an entry of a layer's config changes what the layer does with its weights."""
    if key in _LEFT_OUT or key.endswith("initializer") or key.startswith("function"):
        return False
    return value is not None and (key == "dtype" or not _is_layer(value))


def _is_layer(value):
    """Whether `value` describes a layer, or a list of them: they have entries of their own."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_layer, value))
    return (
        isinstance(value, dict)
        and isinstance(value.get("config"), dict)
        and ("name" in value["config"])
    )


def _wiring(config):
    """Checksum of how the layers of a functional model are connected, whatever their names."""
    layers = config.get("layers")
    if not isinstance(layers, list) or "input_layers" not in config:
        return None
    numbers = {layer.get("name"): f"#{number}" for number, layer in enumerate(layers)}

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [renamed(part) for part in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    ends = [config["input_layers"], config["output_layers"]]
    return _digest(plain(renamed([ends, *(layer.get("inbound_nodes") for layer in layers)])))


def weights_checksum(weights) -> str:
    """Checksum of the values of `weights`, in their order.

    Raises:
        ValueError: if a weight is NaN or infinite; names it.
    """
    total = 0
    for weight in weights:
        value = np.ascontiguousarray(finite_value(weight))
        total = zlib.crc32(value.view(np.uint8).data if value.size else b"", total)
    return f"checksum {total:08x}"


def finite_value(weight) -> np.ndarray:
    """The value of `weight`. Raises a `ValueError` if it is NaN or infinite."""
    value = to_numpy(weight)
    if not is_finite(value):
        name = getattr(weight, "path", weight.name)
        raise ValueError(f"The weight {name!r} must be finite. Received: NaN or infinite values")
    return value


def split_weights(model: keras.Model) -> tuple[list, list]:
    """The frozen weights of a Theseus model, and all others."""
    ids = getattr(model, "_frozen_ids", frozenset)()
    frozen = [weight for weight in model.weights if id(weight) in ids]
    return frozen, [weight for weight in model.weights if id(weight) not in ids]


def trained_values(model: keras.Model) -> list:
    """The weights of `model` that are not frozen, but for rates and draws of random layers."""
    names = ("replacement_rate", "draw_state")
    states = {id(vars(layer).get(name)) for layer in model._flatten_layers() for name in names}
    return [weight for weight in split_weights(model)[1] if id(weight) not in states]


# Comparisons.


def versions() -> dict:
    """The versions that a training is made with."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"bert_of_theseus": __version__, "keras": KERAS_ON_BACKEND, "python": python}


def differences(before, now, name: str = "") -> list[str]:
    """What differs between two settings, in words, down to the single values."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            found += differences(before.get(key), now.get(key), inner)
        return found
    if name == "model" and isinstance(before, list) and isinstance(now, list):
        return _differing_layers(before, now)
    return [] if before == now else [f"{name}: {before!r}, now {now!r}"]


def _differing_layers(before, now):
    if len(before) != len(now):
        return [f"model: {len(before)} layers, now {len(now)}"]
    found = []
    for number, (one, other) in enumerate(zip(before, now)):
        found += differences(one, other, f"model, layer {number} ({one.get('layer')})")
    return found if len(found) < 4 else [*found[:3], f"and {len(found) - 3} more in the model"]
