"""What a bert4keras BERT and its head are, as numbers: the source of saved and exported files."""

from __future__ import annotations

import sys
from typing import NamedTuple

from .configs import ACTIVATIONS
from .families import POOLER, TOKEN
from .keras_heads import Dense, Head, read_head
from .load import bert4keras_models, check_bert, weights_by_name


class Description(NamedTuple):
    """A BERT and its head.

    Attributes:
        config: See `Checkpoint.config`.
        tensors: The encoder's, by canonical name, kernels as `(input_size, output_size)`.
        head: A `Head`, or `None` if there is none, or one that is not recognized.
    """

    config: dict
    tensors: dict
    head: Head | None

    @property
    def dense_layers(self) -> list[Dense]:
        """The pooler, whether encoder or head holds it, and the head's output layer."""
        pooler = []
        if POOLER[0] in self.tensors:
            pooler = [Dense(*(self.tensors[name] for name in POOLER), "tanh")]
        return pooler + (self.head.layers if self.head else [])

    @property
    def first_token(self) -> bool:
        """Whether the output is of `[CLS]` alone, so that the last layer can skip the others."""
        return self.head.kind != TOKEN if self.head else bool(self.dense_layers)


def is_transformer(model) -> bool:
    """Whether `model` is a bert4keras `Transformer`; imports nothing to find out."""
    models = sys.modules.get("bert4keras.models")
    return models is not None and isinstance(model, models.Transformer)


def describe(transformer, classifier=None, verb: str = "saved") -> Description:
    """Reads the weights and options of a bert4keras BERT and its head.

    Args:
        transformer: A bert4keras `Transformer`.
        classifier: Keras model or layer on its output.
        verb: What is to be done with it, for the error.

    Raises:
        TypeError: if one of them is something else.
        ValueError: if the transformer is not a plain BERT, or has an option that no config can
            express.
    """
    from ..backend import keras

    models = bert4keras_models()
    check_bert(transformer, models, verb)
    if classifier is not None and not isinstance(classifier, keras.layers.Layer):
        raise TypeError(f"`classifier` must be a Keras model or layer. Received: {classifier!r}.")
    config = _config(transformer, models)
    weights = weights_by_name(transformer)
    values = models.K.batch_get_value(list(weights.values()))
    tensors = {name: value.astype("float32", copy=False) for name, value in zip(weights, values)}
    turned = "cls/seq_relationship/output_weights"
    if turned in tensors:
        tensors[turned] = tensors[turned].T
    head = None
    if classifier is not None and not (transformer.with_mlm or transformer.with_nsp):
        head = read_head(classifier, tuple(transformer.output.shape))
    return Description(config, tensors, head)


def _config(transformer, models) -> dict:
    """BERT's hyperparameters, from the layers. Refuses what no config can express."""
    t = transformer
    sizes = {t.attention_head_size * t.num_attention_heads,
             t.attention_key_size * t.num_attention_heads}  # fmt: skip
    mask = type(t).compute_attention_bias is not models.Transformer.compute_attention_bias
    problems = {
        "attention heads of another size": sizes != {t.hidden_size},
        "a custom attention mask (application='lm' or 'unilm')": mask,
        "no segments": not t.segment_vocab_size,
        "a pooler without tanh": t.with_pool not in (False, True),
        "layer_norm_cond": t.layer_norm_conds[0] is not None,
        "attention_caches": bool(t.attention_caches),
        "additional inputs": len(t.inputs) > 2,
    }
    for option in ("hierarchical_position", "shared_segment_embeddings",
                   "residual_attention_scores"):  # fmt: skip
        problems[option] = bool(getattr(t, option))

    layers = t.layers.values()
    epsilons = {layer.epsilon for layer in layers if isinstance(layer, models.LayerNormalization)}
    activations = {
        function.__name__ if len(layer.activation) == 1 else "gated"
        for layer in layers
        if isinstance(layer, models.FeedForward)
        for function in layer.activation
    }
    problems[f"LayerNorm epsilons {sorted(epsilons)}"] = len(epsilons) != 1
    problems[f"activation {', '.join(sorted(activations))}"] = len(
        activations
    ) != 1 or not activations <= set(ACTIVATIONS)
    found = [problem for problem, is_there in problems.items() if is_there]
    if found:
        raise ValueError(
            f"`transformer` cannot be saved as a BERT: no config can express {', '.join(found)}."
        )
    config = {
        "model_type": "bert",
        "vocab_size": t.vocab_size,
        "hidden_size": t.hidden_size,
        "num_hidden_layers": t.num_hidden_layers,
        "num_attention_heads": t.num_attention_heads,
        "intermediate_size": t.intermediate_size,
        "hidden_act": ACTIVATIONS[activations.pop()],
        "hidden_dropout_prob": t.dropout_rate,
        "attention_probs_dropout_prob": t.attention_dropout_rate,
        "max_position_embeddings": t.max_position,
        "type_vocab_size": t.segment_vocab_size,
        "layer_norm_eps": epsilons.pop(),
        "initializer_range": 0.02,
    }
    if t.embedding_size != t.hidden_size:
        config["embedding_size"] = t.embedding_size
    return config
