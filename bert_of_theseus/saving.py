"""Loads Keras files without running code from them."""

from __future__ import annotations

import json
import os
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

from .backend import SAFE_MODE_IMPORTS, keras, quiet_about_masks, safe_mode, to_numpy


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
        with safe_mode():
            model = keras.models.load_model(str(path), compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):  # a config may describe any object
            raise ValueError(f"it holds a {type(model).__name__}, not a model")
        for weight in model.weights:
            value = to_numpy(weight)
            if value.dtype.kind not in "biuSUO" and not np.isfinite(value).all():
                raise ValueError(f"its weight {weight.name!r} is NaN or infinite")
        return model
    except FileNotFoundError:
        raise
    except Exception as error:  # Keras, h5py and zipfile each raise errors of their own
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from error


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
