"""Makes bert4keras work on today's TensorFlow. Import it before bert4keras:

    import bert_of_theseus.bert4keras
    from bert4keras.models import build_transformer_model
    from bert4keras.optimizers import Adam, extend_with_weight_decay

bert4keras 0.11.5 is Keras 2 code. From TensorFlow 2.16 on `tf.keras` is Keras 3 unless
`TF_USE_LEGACY_KERAS=1`; bert4keras takes it only with `TF_KERAS=1`, and its optimizers are
subclasses of what is now `tf.keras.optimizers.legacy.Optimizer`. This module sets the two
variables and binds that class while bert4keras is imported, once.
"""

import importlib
import os
import sys

_INSTALL = "pip install --no-deps bert4keras==0.11.5"


def _set_up():
    late = [name for name in ("keras", "bert_of_theseus.backend") if _is_keras_3(name)]
    if late:
        raise ImportError(
            f"Keras 3 is already in use in this process ({late[0]} is imported), and bert4keras "
            "needs Keras 2. Put `import bert_of_theseus.bert4keras` before every other import "
            "of tensorflow, keras and bert_of_theseus, or set TF_KERAS=1 and "
            "TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    os.environ["TF_KERAS"] = "1"
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    try:
        import tensorflow as tf
        import tf_keras
    except ImportError as error:
        raise ImportError(
            f"bert4keras needs TensorFlow and tf-keras of the same version ({error}). Try "
            "`pip install 'bert-of-theseus[bert4keras]'`."
        ) from error
    if tf.keras.Model is not tf_keras.Model:
        raise ImportError(
            "`tensorflow.keras` is already bound to Keras 3, and bert4keras needs Keras 2. Put "
            "`import bert_of_theseus.bert4keras` before the first use of `tensorflow.keras`, or "
            "set TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    # A lazy module of TensorFlow's stands before the real one: bert4keras sets attributes on it.
    modern = tf_keras.optimizers.Optimizer
    tf.keras.optimizers.Optimizer = tf_keras.optimizers.legacy.Optimizer
    try:
        for name in ("backend", "layers", "models", "optimizers", "snippets", "tokenizers"):
            importlib.import_module(f"bert4keras.{name}")
    except ModuleNotFoundError as error:
        if error.name == "distutils":
            raise ImportError(
                "bert4keras imports distutils, which left the standard library in Python 3.12: "
                "`pip install setuptools` brings it back."
            ) from error
        if (error.name or "").split(".")[0] != "bert4keras":
            raise
        raise ImportError(
            f"bert4keras is not installed: `{_INSTALL}` (--no-deps, since no TensorFlow that "
            "installs today meets its own pin, keras<=2.3.1)."
        ) from error
    finally:
        tf.keras.optimizers.Optimizer = modern
    sys.modules["bert4keras.layers"].Dropout = _attention_dropout(tf_keras)


def _attention_dropout(keras):
    """What bert4keras makes anew in each call of an attention, with a generator that stays.

    So its draws are seeded and can be set back like those of the layers that a model holds.
    """
    from .backend import shared_generators

    generator = keras.layers.Dropout(0.1, rng_type="stateful")._random_generator
    shared_generators.append(generator)

    class AttentionDropout(keras.layers.Dropout):
        def __init__(self, rate):
            super().__init__(rate)
            self._random_generator = generator

    return AttentionDropout


def _is_keras_3(name):
    module = sys.modules.get(name)
    if name == "keras":
        return getattr(module, "__version__", "2").split(".")[0] not in ("2",)
    return module is not None and not module.KERAS_2


_set_up()

# Keras 2 finds the classes of a file only if they are registered already.
from . import heads, models  # noqa: E402, F401
