"""Set-up of bert4keras on today's TensorFlow, and all patches. Importing this module applies them.

bert4keras 0.11.5 is Keras 2 code. From TensorFlow 2.16 on `tf.keras` is Keras 3 unless
`TF_USE_LEGACY_KERAS=1`; bert4keras takes it only with `TF_KERAS=1`, and its optimizers are
subclasses of what is now `tf.keras.optimizers.legacy.Optimizer`. So the two variables are set, and
that class is bound to `tf.keras.optimizers.Optimizer` while bert4keras is imported.
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
    # Set on TensorFlow's lazy module, whose attributes bert4keras reads.
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
    _patch(tf, tf_keras)


def _patch(tf, keras):
    backend, layers, models = (
        sys.modules[f"bert4keras.{name}"] for name in ("backend", "layers", "models")
    )
    layers.Dropout = _attention_dropout(keras)
    # It returns the first of its input's masks, and there is none where a module stands on its
    # own. A table of positions, the same for all texts of the batch, has no mask anyway.
    layers.RelativePositionEmbedding.compute_mask = lambda self, inputs, mask=None: None
    # bert4keras registers one of its two under "gelu" and gives the other no name.
    keras.utils.get_custom_objects().setdefault("gelu_tanh", backend.gelu_tanh)
    _name_functions(tf, keras, models.Transformer)
    _name_initializer(keras, models.RoFormerV2)


def _attention_dropout(keras):
    """The dropout layer that bert4keras creates in each call of an attention, with one generator.

    So its draws are seeded and can be reset like those of the layers that a model holds.
    """
    from .backend import shared_generators

    generator = keras.layers.Dropout(0.1, rng_type="stateful")._random_generator
    # It takes a seed from Keras' own generator: now, so that under one seed the first model that is
    # built gets the same initial weights as later ones.
    generator._maybe_init()
    shared_generators.append(generator)

    class AttentionDropout(keras.layers.Dropout):
        def __init__(self, rate):
            super().__init__(rate)
            self._random_generator = generator

    return AttentionDropout


def _name_functions(tf, keras, transformer_class):
    """Gives names to the functions in bert4keras' Lambda layers: two masks and the pooler's [CLS].

    Keras stores a named object by its name, and any other function as code, which safe loading
    refuses.
    """

    class Named:
        """A callable that is not a function to Keras."""

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

    # By the names that Python gives bert4keras' functions.
    named = {
        f"{place}.<locals>.{local}": Named(f"bert4keras>{name}", function)
        for place, local, name, function in (
            ("LM_Mask.compute_attention_bias", "lm_mask", "lm_mask", lm_mask),
            ("UniLM_Mask.compute_attention_bias", "unilm_mask", "unilm_mask", unilm_mask),
            ("BERT.apply_final_layers", "<lambda>", "first_token", lambda x: x[:, 0]),
        )
    }
    original = transformer_class.apply

    @functools.wraps(original)
    def apply(self, inputs=None, layer=None, arguments=None, **kwargs):
        name = getattr(kwargs.get("function"), "__qualname__", None)
        if name in named:
            kwargs["function"] = named[name]
        return original(self, inputs, layer, arguments, **kwargs)

    transformer_class.apply = apply


def _name_initializer(keras, roformer_class):
    """Makes RoFormerV2's initializer, a method, a class that Keras' files can name."""

    @keras.saving.register_keras_serializable("bert4keras")
    class RoFormerV2Initializer(keras.initializers.Initializer):
        __call__ = roformer_class.initializer

        def __init__(self, num_hidden_layers):
            self.num_hidden_layers = num_hidden_layers

        def get_config(self):
            return {"num_hidden_layers": self.num_hidden_layers}

    roformer_class.initializer = property(
        lambda self: RoFormerV2Initializer(self.num_hidden_layers)
    )


def _is_keras_3(name):
    module = sys.modules.get(name)
    if name == "keras":
        return getattr(module, "__version__", "2").split(".")[0] not in ("2",)
    return module is not None and not module.KERAS_2


_set_up()
