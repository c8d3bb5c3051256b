"""Makes bert4keras work on today's TensorFlow. Import it before bert4keras:

    import bert_of_theseus.bert4keras
    from bert4keras.models import build_transformer_model
    from bert4keras.optimizers import Adam, extend_with_weight_decay

bert4keras 0.11.5 is Keras 2 code. From TensorFlow 2.16 on `tf.keras` is Keras 3 unless
`TF_USE_LEGACY_KERAS=1`; bert4keras takes it only with `TF_KERAS=1`, and its optimizers are
subclasses of what is now `tf.keras.optimizers.legacy.Optimizer`. This module sets the two
variables and binds that class while bert4keras is imported, once.
"""

import functools
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
    _make_storable(tf, tf_keras, sys.modules["bert4keras.models"])


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


def _make_storable(tf, keras, theirs):
    """Lets Keras' files name what bert4keras' models are made of, where they would hold code.

    Safe loading refuses the code of a Lambda layer, and bert4keras has three: two masks and the
    pooler's `[CLS]`. RoFormerV2's initializer, a method, is written in a way that nothing reads.
    """
    register = keras.saving.register_keras_serializable("bert4keras")

    class Named:
        """A function that is no function to Keras, which stores it by its name."""

        def __init__(self, name, function):
            self.__name__, self.function = name, function
            keras.utils.get_custom_objects()[name] = self

        def __call__(self, x):
            return self.function(x)

    def lm_mask(x):
        positions = tf.range(tf.shape(x)[1])
        return positions[None] <= positions[:, None]

    def unilm_mask(x):
        positions = tf.cumsum(x, axis=1)
        return positions[:, None] <= positions[:, :, None]

    functions = {
        f"{place}.<locals>.{local}": Named(f"bert4keras>{name}", function)
        for place, local, name, function in (
            ("LM_Mask.compute_attention_bias", "lm_mask", "lm_mask", lm_mask),
            ("UniLM_Mask.compute_attention_bias", "unilm_mask", "unilm_mask", unilm_mask),
            ("BERT.apply_final_layers", "<lambda>", "first_token", lambda x: x[:, 0]),
        )
    }
    original = theirs.Transformer.apply

    @functools.wraps(original)
    def apply(self, inputs=None, layer=None, arguments=None, **kwargs):
        name = getattr(kwargs.get("function"), "__qualname__", None)
        if name in functions:
            kwargs["function"] = functions[name]
        return original(self, inputs, layer, arguments, **kwargs)

    theirs.Transformer.apply = apply

    @register
    class RoFormerV2Initializer(keras.initializers.Initializer):
        __call__ = theirs.RoFormerV2.initializer

        def __init__(self, num_hidden_layers):
            self.num_hidden_layers = num_hidden_layers

        def get_config(self):
            return {"num_hidden_layers": self.num_hidden_layers}

    theirs.RoFormerV2.initializer = property(
        lambda self: RoFormerV2Initializer(self.num_hidden_layers)
    )


def _is_keras_3(name):
    module = sys.modules.get(name)
    if name == "keras":
        return getattr(module, "__version__", "2").split(".")[0] not in ("2",)
    return module is not None and not module.KERAS_2


_set_up()

# Keras 2 finds the classes of a file only if they are registered already.
from . import heads, models  # noqa: E402, F401
