"""A bert4keras Transformer as an `Encoder`."""

import contextlib

from bert4keras import models
from bert4keras.models import RoFormer, Transformer

from .. import _bert4keras  # noqa: F401  the patches that these modules need
from .base import Encoder

FAMILIES = (
    *(models.BERT, models.ALBERT, models.ALBERT_Unshared, models.ELECTRA, models.NEZHA),
    *(RoFormer, models.RoFormerV2, models.GPT, models.GPT2, models.GPT2_ML, models.T5_Encoder),
)
_SUPPORTED = ", ".join(family.__name__ for family in FAMILIES)
# What build_transformer_model(application="lm") and "unilm" derive from a family.
_APPLICATIONS = ("LanguageModel", "UnifiedLanguageModel")


class Bert4kerasEncoder(Encoder):
    """A bert4keras `Transformer` (`return_keras_model=False`), as an `Encoder`.

    Supported: BERT and RoBERTa, ALBERT (shared layers or not), ELECTRA, NEZHA, RoFormer (1 and
    2), GPT, GPT2, GPT2_ML and T5's encoder; the masks of `application="lm"` and `"unilm"`, or a
    custom one in `compute_attention_bias`; all heads (`with_pool`, `with_nsp`, `with_mlm`,
    ELECTRA's discriminator) and `keep_tokens`.

    Each module computes the masks and position biases of its layers, with bert4keras' methods.
    This matters for T5, whose table of relative positions is trained and shared by all layers:
    the predecessor's modules use the predecessor's table, frozen, and the successor's modules
    share and train the successor's.

    ALBERT shares one layer among all modules: an ALBERT successor saves time but no parameters.

    Args:
        transformer: bert4keras `Transformer`.

    Raises:
        ValueError: for another family, for a subclass with its own `apply` or
            `apply_main_layers`, and for options that give the layers more inputs
            (`layer_norm_cond`, `residual_attention_scores`, `additional_input_layers`,
            `attention_caches`).
    """

    def __init__(self, transformer):
        family = next(
            c
            for c in type(transformer).__mro__
            if issubclass(c, Transformer)
            and c.__module__ == "bert4keras.models"
            and c.__name__ not in _APPLICATIONS
        )
        own = [m for m in ("apply", "apply_main_layers") if _is_own(transformer, m)]
        if own or family not in FAMILIES:
            name, why = family.__name__, ""
            if own:
                name = type(transformer).__name__
                why = f", whose {' and '.join(own)} replaces that of {family.__name__},"
            raise ValueError(
                f"bert4keras' family {name}{why} is not supported. Supported are: {_SUPPORTED}."
            )
        if not transformer.built:
            raise ValueError(
                f"The {family.__name__} is not built. Call its `build()`, or use "
                "`build_transformer_model(..., return_keras_model=False)`."
            )
        inputs = transformer.get_inputs()
        self._takes_list = isinstance(inputs, list)
        options = {
            "residual_attention_scores": transformer.residual_attention_scores,
            "layer_norm_cond": transformer.layer_norm_conds[0] is not None,
            "attention_caches": bool(transformer.attention_caches),
            "additional_input_layers": len(transformer.inputs)
            > (len(inputs) if self._takes_list else 1),
        }
        used = [option for option, is_used in options.items() if is_used]
        if used:
            raise ValueError(
                f"A bert4keras model with {', '.join(used)} cannot be compressed: its layers "
                "take more than the hidden states and biases made of the inputs."
            )
        self.transformer = transformer
        self.inputs = transformer.inputs
        self.num_hidden_layers = transformer.num_hidden_layers
        self.name = transformer.prefix or family.__name__
        # The layers need the inputs too: for a mask, or for RoFormer's positions.
        self._has_context = transformer.compute_attention_bias() is not None or (
            issubclass(family, RoFormer) and transformer.custom_position_ids
        )

    @contextlib.contextmanager
    def _on(self, inputs):
        """A context in which bert4keras computes biases for `inputs`, not for those it kept."""
        host = self.transformer
        kept = {
            name: getattr(host, name)
            for name in ("inputs", "attention_bias", "position_bias", "attention_scores")
        }
        host.inputs = inputs
        host.attention_bias = host.position_bias = host.attention_scores = None
        try:
            yield
        finally:
            vars(host).update(kept)

    def embed(self, inputs):
        inputs = list(inputs)
        with self._on(inputs):
            x = self.transformer.apply_embeddings(inputs if self._takes_list else inputs[0])
        return [x, *inputs] if self._has_context else [x]

    def apply_layers(self, state, indices):
        x, *inputs = state
        with self._on(inputs or self.inputs):
            for index in indices:
                x = self.transformer.apply_main_layers(x, index)
        return x

    def apply_layer(self, state, index):
        return self.apply_layers(state, [index])

    def finalize(self, hidden_states):
        return self.transformer.apply_final_layers(hidden_states)

    @property
    def output(self):
        return self.transformer.output


def _is_own(transformer, method):
    return getattr(type(transformer), method).__module__ != "bert4keras.models"
