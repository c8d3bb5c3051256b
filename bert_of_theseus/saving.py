"""Loads Keras files without running code from them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import math
import os
import sys
import threading
import warnings
import zipfile
from pathlib import Path

from .backend import SAFE_MODE_IMPORTS, is_finite, keras, quiet_about_masks, safe_mode, to_numpy
from .validation import is_integer


def load_model(path: str | os.PathLike):
    """Loads a model that Keras saved, without running code from the file.

    `keras.models.load_model` finds the classes of this package only once their modules are
    imported; this function imports them, and KerasHub where the file needs it. For a model with
    bert4keras' layers, import `bert_of_theseus.bert4keras` first.

    A `.keras` file may name Keras' own classes and those registered in this process (in Keras 3:
    what its safe mode allows). A Lambda layer that holds code is refused. A SavedModel is a program
    of TensorFlow operations, some of which read and write files once the model is called: load
    one only from a source that you trust.

    Args:
        path: What `model.save` wrote: a `.keras` file, or another format that this Keras loads.

    Returns:
        The Keras model, not compiled.

    Raises:
        FileNotFoundError: if the `.keras` file does not exist.
        ValueError: if the file is truncated or corrupt, asks for code, or holds weights that are
            NaN or infinite.

    Example:

        import bert_of_theseus

        successor = bert_of_theseus.load_model("successor.keras")
    """
    from . import heads, layers, models  # noqa: F401  register their classes

    with warnings.catch_warnings():
        # While Keras builds the model, there is none yet to be quiet about.
        functional = r"Layer '.*' \(of type (Functional|Sequential)\).*destroy the mask information"
        warnings.filterwarnings("ignore", message=functional)
        # Keras 2, of weights that the file's own replace.
        warnings.filterwarnings("ignore", message=r"The initializer \w+ is unseeded")
        model = load_keras_file(Path(path), check_names=SAFE_MODE_IMPORTS)
    return quiet_about_masks(model)


def load_keras_file(path: Path, check_names: bool = True):
    """Loads a Keras file, after checking its integrity and, optionally, the names in its config.

    Args:
        path: The file.
        check_names: Whether to refuse a `.keras` file that names anything but Keras' own classes
            and registered ones. Needed in Keras 2, whose safe mode imports any module.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is truncated or corrupt, or is refused.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
                _check_packed(size, path.stat().st_size)
                broken = archive.testzip()
                if broken:
                    raise ValueError(f"{broken} does not match its checksum")
                config = archive.read("config.json")
            if b"encoders.keras_hub_backbones" in config:
                from .encoders import keras_hub_backbones  # noqa: F401  register their classes
            config = json.loads(config)
            if check_names:
                # The model is not compiled, so the compile_config is not read.
                _check_names({**config, "compile_config": None})
        with safe_mode(), _as_many_weights_as(_stored_weights(path)):
            model = keras.models.load_model(str(path), compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):  # a config may describe any object
            raise ValueError(f"it holds a {type(model).__name__}, not a model")
        for weight in model.weights:
            if not is_finite(to_numpy(weight)):
                raise ValueError(f"its weight {weight.name!r} is NaN or infinite")
        return model
    except FileNotFoundError:
        raise
    except Exception as error:  # Keras, h5py and zipfile each raise errors of their own
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from error


# What a file may say beyond what it holds, as few layers leave some of their numbers out.
_MORE_NUMBERS, _MORE_WEIGHTS = 2**24, 200
_RATIO = 20  # as good as weights can be packed
_LOADING = threading.RLock()


def _check_packed(size: int, packed: int) -> None:
    """Refuses what is far larger than the file that it is in, before any of it is read."""
    if size > _RATIO * packed + 4 * _MORE_NUMBERS:
        raise ValueError(f"it is said to hold {size} bytes, and has {packed}")


def _stored_weights(path: Path) -> list[int] | None:
    """How many numbers each weight in a Keras file has; `None` for what is no such file."""
    if path.suffix not in (".keras", ".h5", ".hdf5") or path.is_dir():
        return None
    import h5py

    with contextlib.ExitStack() as stack:
        file = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.endswith(".h5")]
            if not names:
                return None  # Keras says what is wrong, or the model is without weights
            file = io.BytesIO(archive.read(names[0]))
        found = list(_datasets(stack.enter_context(h5py.File(file, "r"))))
        _check_packed(sum(dataset.nbytes for dataset in found), path.stat().st_size)
        return [dataset.size or 0 for dataset in found]


def _datasets(group):
    import h5py

    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(item, h5py.Group):
            yield from _datasets(item)
        elif isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual):
            yield item
        else:
            raise ValueError(f"its {name!r} is in another file")


@contextlib.contextmanager
def _as_many_weights_as(stored: list[int] | None):
    """Refuses weights for which the file has no values, before there is memory for them."""
    if stored is None:
        yield
        return
    base, thread = keras.layers.Layer, threading.get_ident()
    numbers, count = 2 * sum(stored) + _MORE_NUMBERS, 2 * len(stored) + _MORE_WEIGHTS

    @functools.wraps(base.add_weight)
    def add_weight(*args, **kwargs):
        nonlocal numbers, count
        if threading.get_ident() == thread:
            shape = inspect.signature(original).bind(*args, **kwargs).arguments.get("shape")
            shape = shape if isinstance(shape, (list, tuple)) else (shape,)
            sizes = (abs(size) for size in shape if is_integer(size))
            numbers, count = numbers - math.prod(sizes), count - 1
            if numbers < 0 or count < 0:
                raise ValueError(
                    f"its config asks for more than the {sum(stored)} numbers in {len(stored)} "
                    "weights that it holds"
                )
        return original(*args, **kwargs)

    with _LOADING:
        original = base.add_weight
        base.add_weight = add_weight
        try:
            yield
        finally:
            base.add_weight = original


def _check_names(config) -> None:
    """Refuses a Keras config that names anything outside Keras that is not registered."""
    if isinstance(config, list):
        for item in config:
            _check_names(item)
    if not isinstance(config, dict):
        return
    if "class_name" in config and not _is_known(config):
        name = config["config"] if config["class_name"] == "function" else config["class_name"]
        raise ValueError(f"it asks for {name!r} of {config.get('module')!r}, not registered here")
    for value in config.values():
        _check_names(value)


def _is_known(config: dict) -> bool:
    """Whether what a config names is Keras' own or registered, so that no module is imported.

    Keras 2 looks a function up by its name, a class by its `registered_name`, and imports whatever
    `module` says for anything that it does not find there.
    """
    name, module = config["class_name"], config.get("module")
    registered = keras.saving.get_registered_object
    if name == "function":
        function = str(config.get("config"))
        own = module in ("builtins", "keras.activations")
        return bool(registered(function)) or (
            own and callable(getattr(keras.activations, function, None))
        )
    if name == "__lambda__":
        return False
    if name == "Lambda":  # bert4keras' masks and pooler, stored by the names of their functions
        function = config["config"].get("function")
        return module == "keras.layers" and isinstance(function, str) and bool(registered(function))
    if module in _TF_OPS:  # x[:, 0] or x + y in a functional model of Keras 2
        function = str(config["config"].get("function"))
        return function.split(".")[0] in ("__operators__", "math", "nn")
    if (name == "Functional" and module in _FUNCTIONAL) or (name, module) in _DATA:
        return True
    # The old form, in which classes go by their registered name and no module is imported.
    registered_name = config.get("registered_name") if "module" in config else name
    if registered_name is not None and registered(str(registered_name)):
        return True
    if module == "bert4keras.layers":  # its own versions of some Keras layers
        found = getattr(sys.modules.get(module), name, None)
        return isinstance(found, type) and issubclass(found, keras.layers.Layer)
    part = "models" if module == "keras" else str(module).removeprefix("keras.")
    spelled_out = module == "keras" or str(module).startswith("keras.")
    found = getattr(getattr(keras, part), name, None) if part in _KERAS_PARTS else None
    return spelled_out and isinstance(found, type)


_FUNCTIONAL = (  # in Keras 2, tf_keras and Keras 3
    "keras.src.engine.functional",
    "tf_keras.src.engine.functional",
    "keras.src.models.functional",
)
_TF_OPS = ("keras.src.layers.core.tf_op_layer", "tf_keras.src.layers.core.tf_op_layer")
_DATA = (("DTypePolicy", "keras"), ("__keras_tensor__", None), ("__tuple__", None))
_KERAS_PARTS = ("constraints", "initializers", "layers", "models", "regularizers")
