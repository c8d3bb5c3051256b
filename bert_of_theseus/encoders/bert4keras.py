"""A bert4keras Transformer as an `Encoder`."""

import contextlib

from bert4keras.models import BERT, Transformer

from .. import bert4keras as _set_up  # noqa: F401  so that what stands here works
from .base import Encoder

__all__ = ["Bert4kerasEncoder", "Transformer"]

_SUPPORTED = "BERT and RoBERTa (model='bert' or 'roberta')"


class Bert4kerasEncoder(Encoder):
    """What `build_transformer_model(..., return_keras_model=False)` returns, as an `Encoder`.

    Supported: BERT and RoBERTa, as encoders or with the masks of `application="lm"` and
    `"unilm"`, with pooler or language-model head or neither.

    Args:
        transformer: bert4keras `Transformer`.

    Raises:
        ValueError: for another family, and for options that reach into the layers from outside
            (`layer_norm_cond`, `residual_attention_scores`, `additional_input_layers`,
            `attention_caches`).
    """

    def __init__(self, transformer):
        families = [c for c in type(transformer).__mro__ if c.__module__ == "bert4keras.models"]
        # Of BERT's own kind, or one of bert4keras' mixtures of it with a mask.
        if not isinstance(transformer, BERT) or any(
            issubclass(c, BERT)
            and c is not BERT
            and c.__name__ not in ("LanguageModel", "UnifiedLanguageModel")
            for c in families
        ):
            raise ValueError(
                f"bert4keras' {type(transformer).__name__} is not supported yet; {_SUPPORTED} is."
            )
        options = {
            "residual_attention_scores": transformer.residual_attention_scores,
            "layer_norm_cond": transformer.layer_norm_conds[0] is not None,
            "attention_caches": bool(transformer.attention_caches),
            "additional_input_layers": len(transformer.inputs) > len(transformer.get_inputs()),
        }
        used = [option for option, is_used in options.items() if is_used]
        if used:
            raise ValueError(
                f"A bert4keras model with {', '.join(used)} cannot be compressed: its layers "
                "take more than the hidden states and an attention bias."
            )
        self.transformer = transformer
        self.inputs = transformer.inputs
        self.num_hidden_layers = transformer.num_hidden_layers
        self.name = transformer.prefix or type(transformer).__name__

    @contextlib.contextmanager
    def _bias(self, attention_bias):
        """bert4keras keeps the bias of the inputs it was built on; within, it is another."""
        kept = self.transformer.attention_bias
        self.transformer.attention_bias = attention_bias
        try:
            yield
        finally:
            self.transformer.attention_bias = kept

    def embed(self, inputs):
        hidden_states = self.transformer.apply_embeddings(list(inputs))
        bias = self.transformer.compute_attention_bias()
        return [hidden_states] if bias is None else [hidden_states, bias]

    def apply_layer(self, state, index):
        with self._bias(state[1] if len(state) > 1 else None):
            return self.transformer.apply_main_layers(state[0], index)

    def finalize(self, hidden_states):
        return self.transformer.apply_final_layers(hidden_states)

    @property
    def output(self):
        return self.transformer.output
