"""KerasHub's backbones with the options of `transformers`, for the families that both have.

KerasHub fixes what its pretrained models have in common: the activation, the normalizations'
epsilon, one rate for all dropouts; and it has no token types in RoBERTa, and another layout of its
positions. Here these are arguments, so that a model computes what it was trained to.
"""

from typing import ClassVar

import keras_hub
from keras_hub.src.models.deberta_v3.disentangled_attention_encoder import (
    DisentangledAttentionEncoder,
)
from keras_hub.src.models.deberta_v3.relative_embedding import RelativeEmbedding

from ..backend import keras, ops, register
from ..validation import one_of
from .distances import distance_buckets


@register
def gelu_tanh(x):
    """Gelu, approximated by tanh."""
    return keras.activations.gelu(x, approximate=True)


# By the names in a canonical config.
ACTIVATIONS = {
    "gelu": keras.activations.gelu,
    "gelu_tanh": gelu_tanh,
    "swish": keras.activations.silu,
    "relu": keras.activations.relu,
    "tanh": keras.activations.tanh,
    "linear": keras.activations.linear,
}


class _OwnRate:
    """Gives KerasHub's layers a rate of its own for the dropout of attention probabilities."""

    def __init__(self, *args, attention_dropout=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.attention_dropout = attention_dropout

    def build(self, inputs_shape):
        # Keras gives a dropout a generator only if its rate is above 0 when it is made.
        rate, self.dropout = self.dropout, max(self.dropout, self.attention_dropout)
        super().build(inputs_shape)
        self.dropout = rate
        self._self_attention_dropout.rate = self._feedforward_dropout.rate = rate

    def get_config(self):
        return {**super().get_config(), "attention_dropout": self.attention_dropout}


@register
class EncoderLayer(_OwnRate, keras_hub.layers.TransformerEncoder):
    """KerasHub's `TransformerEncoder` with a rate for the dropout of attention probabilities.

    Args:
        attention_dropout: Float. Defaults to `0.0`.
        **kwargs: As for `keras_hub.layers.TransformerEncoder`.
    """

    def build(self, inputs_shape):
        super().build(inputs_shape)
        attention = self._self_attention_layer
        attention._dropout = self.attention_dropout
        if self.attention_dropout:
            attention._dropout_layer.rate = self.attention_dropout


@register
class DisentangledLayer(_OwnRate, DisentangledAttentionEncoder):
    """KerasHub's layer of DeBERTa with a rate for the dropout of attention probabilities.

    Args:
        attention_dropout: Float. Defaults to `0.0`.
        **kwargs: As for KerasHub's `DisentangledAttentionEncoder`.
    """

    def build(self, inputs_shape):
        super().build(inputs_shape)
        attention = self._self_attention_layer
        attention._attn_dropout_layer.rate = self.attention_dropout
        attention._position_dropout_layer.rate = self.dropout
        # KerasHub's formula, rounded by some backends to another bucket.
        self._buckets = distance_buckets(self.bucket_size, self.max_position_embeddings)
        attention._make_log_bucket_position = self._bucket

    def _bucket(self, distances):
        near = ops.minimum(ops.abs(distances), len(self._buckets) - 1)
        found = ops.take(ops.convert_to_tensor(self._buckets), near, axis=0)
        return ops.sign(distances) * ops.cast(found, distances.dtype)


@register
class RelativePositions(RelativeEmbedding):
    """KerasHub's table of DeBERTa's relative positions, which Keras' files can restore."""

    def build(self, input_shape):
        self.layer_norm.build((None, 2 * self.bucket_size, self.hidden_dim))
        self.built = True


@register
class TokenPositions(keras.layers.Layer):
    """Numbers the tokens as RoBERTa does: from `padding_id + 1`, and padding `padding_id`.

    Args:
        padding_id: Integer, the id of padding.
    """

    def __init__(self, padding_id, **kwargs):
        super().__init__(**kwargs)
        self.padding_id = padding_id

    def call(self, token_ids):
        real = ops.cast(ops.not_equal(token_ids, self.padding_id), "int32")
        return ops.cumsum(real, axis=1) * real + self.padding_id

    def compute_output_spec(self, token_ids):
        return keras.KerasTensor(token_ids.shape, dtype="int32")

    def get_config(self):
        return {**super().get_config(), "padding_id": self.padding_id}


# The first backbone that is made changes the base of the class `Backbone` (to Keras' functional
# models), which Keras cannot do for classes that inherit it twice, as those below.
_any = keras.Input((1,))
keras_hub.models.Backbone(_any, keras.layers.Identity()(_any))


class _Backbone(keras_hub.models.Backbone):
    """Base of the backbones.

    Args:
        vocabulary_size: Integer.
        num_layers: Integer, the number of layers; in ALBERT, of times that one group is applied.
        num_heads: Integer.
        hidden_dim: Integer.
        intermediate_dim: Integer.
        max_sequence_length: Integer, the number of tokens that a text may have.
        num_segments: Integer, the rows of the table of token types, 0 for no such table. RoBERTa
            has the table, uses the first row alone, and takes no segments.
        dropout: Float, of embeddings and of the output of a layer's halves.
        attention_dropout: Float, of attention probabilities.
        activation: String, one of `ACTIVATIONS`.
        layer_norm_epsilon: Float, of all normalizations.
        padding_id: Integer, the id of padding.
        pooler: Boolean, whether there is a second output, the pooled first token.
        **options: Those of one family: `embedding_dim`, `num_groups` and `num_inner_repetitions`,
            `bucket_size`; and `name`, `trainable`, `dtype`, as for any backbone.
    """

    _own: ClassVar[dict] = {}  # the family's own options, with their defaults
    _takes_segments = True
    _has_two_outputs = False
    _projects_always = False

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        max_sequence_length=512,
        num_segments=0,
        dropout=0.1,
        attention_dropout=0.1,
        activation="gelu",
        layer_norm_epsilon=1e-12,
        padding_id=0,
        pooler=False,
        dtype=None,
        **options,
    ):
        one_of("activation", activation, tuple(ACTIVATIONS))
        own = {key: options.pop(key, default) for key, default in self._own.items()}
        self._options = {
            "vocabulary_size": vocabulary_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": intermediate_dim,
            "max_sequence_length": max_sequence_length,
            "num_segments": num_segments,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "padding_id": padding_id,
            "pooler": pooler,
            **own,
        }
        names = ["token_ids", "padding_mask"]
        if num_segments and self._takes_segments:
            names.insert(1, "segment_ids")
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        o = _Options(self._options, dtype)
        x = self._embed(o, inputs)
        context = {"padding_mask": inputs["padding_mask"], **self._context(o, x)}
        self.transformer_layers = self._stack(o)
        for layer in self._order(o):
            x = layer(x, **context)
        outputs = {"sequence_output": x} if self._has_two_outputs or pooler else x
        if pooler:
            self.pooled_dense = o.dense(hidden_dim, "pooled_dense", activation="tanh")
            outputs["pooled_output"] = self.pooled_dense(x[:, 0, :])
        # Not that of KerasHub's class of this family, which builds its own layers.
        keras_hub.models.Backbone.__init__(
            self, inputs=inputs, outputs=outputs, dtype=dtype, **options
        )
        for name, value in self._options.items():
            setattr(self, name, value)
        # KerasHub's text classifiers ask for one of the two.
        self.cls_token_index = self.start_token_index = 0

    def _embed(self, o, inputs):
        width = o.get("embedding_dim") or o.hidden_dim
        self.token_embedding = keras_hub.layers.ReversibleEmbedding(
            o.vocabulary_size, width, name="token_embedding", **o.common()
        )
        x = self.token_embedding(inputs["token_ids"])
        parts = [x, *self._positions_and_segments(o, x, inputs)]
        if len(parts) > 1:
            x = keras.layers.Add(name="embeddings_add", dtype=o.dtype)(parts)
        self.embeddings_layer_norm = o.norm("embeddings_layer_norm")
        x = self.embeddings_layer_norm(x)
        x = keras.layers.Dropout(o.dropout, name="embeddings_dropout", dtype=o.dtype)(x)
        if self._projects_always or width != o.hidden_dim:
            self.embeddings_projection = o.dense(o.hidden_dim, "embeddings_projection")
            x = self.embeddings_projection(x)
        return x

    def _positions_and_segments(self, o, tokens, inputs):
        found = [self._positions(o, tokens, inputs["token_ids"])]
        if o.num_segments:
            self.segment_embedding = keras.layers.Embedding(
                o.num_segments, tokens.shape[-1], name="segment_embedding", **o.common()
            )
            ids = inputs.get("segment_ids")
            ids = ops.zeros_like(inputs["token_ids"]) if ids is None else ids
            found.append(self.segment_embedding(ids))
        return found

    def _positions(self, o, tokens, token_ids):
        self.position_embedding = keras_hub.layers.PositionEmbedding(
            o.max_sequence_length, initializer=o.initializer(), name="position_embedding",
            dtype=o.dtype,
        )  # fmt: skip
        return self.position_embedding(tokens)

    def _context(self, o, x):
        """What all layers take in addition."""
        return {}

    def _stack(self, o):
        return [o.layer(f"transformer_layer_{index}") for index in range(o.num_layers)]

    def _order(self, o):
        """The layers in the order in which they are applied."""
        return self.transformer_layers

    def get_config(self):
        return {**keras_hub.models.Backbone.get_config(self), **self._options}


class _Options:
    """A backbone's options as attributes, and layers that have them."""

    def __init__(self, options, dtype):
        self.dtype = dtype
        self.__dict__.update(options)
        self.get = options.get

    def initializer(self):
        # As `transformers` does it; KerasHub's, truncated, takes three times as long on PyTorch.
        return keras.initializers.RandomNormal(stddev=0.02)

    def common(self):
        return {"embeddings_initializer": self.initializer(), "dtype": self.dtype}

    def norm(self, name):
        return keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, name=name, dtype=self.dtype
        )

    def dense(self, units, name, activation=None):
        return keras.layers.Dense(
            units, activation=activation, kernel_initializer=self.initializer(), name=name,
            dtype=self.dtype,
        )  # fmt: skip

    def layer(self, name, kind=EncoderLayer, **more):
        return kind(
            num_heads=self.num_heads,
            intermediate_dim=self.intermediate_dim,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=ACTIVATIONS[self.activation],
            layer_norm_epsilon=self.layer_norm_epsilon,
            kernel_initializer=self.initializer(),
            name=name,
            dtype=self.dtype,
            **more,
        )


@register
class BertBackbone(_Backbone, keras_hub.models.BertBackbone):
    """BERT, see `_Backbone`."""

    _has_two_outputs = True


@register
class DistilBertBackbone(_Backbone, keras_hub.models.DistilBertBackbone):
    """DistilBERT, see `_Backbone`."""


@register
class ElectraBackbone(_Backbone, keras_hub.models.ElectraBackbone):
    """ELECTRA, see `_Backbone`. Its embeddings are projected where they have another size."""

    _own: ClassVar[dict] = {"embedding_dim": 128}
    _has_two_outputs = True


class _Roberta(_Backbone):
    _takes_segments = False

    def _positions(self, o, tokens, token_ids):
        rows = o.padding_id + 1 + o.max_sequence_length
        self.position_embedding = keras.layers.Embedding(
            rows, tokens.shape[-1], name="position_embedding", **o.common()
        )
        positions = TokenPositions(o.padding_id, name="token_positions")(token_ids)
        return self.position_embedding(positions)


@register
class RobertaBackbone(_Roberta, keras_hub.models.RobertaBackbone):
    """RoBERTa, see `_Backbone`. Its table of positions starts with `padding_id + 1` other rows."""


@register
class XLMRobertaBackbone(_Roberta, keras_hub.models.XLMRobertaBackbone):
    """XLM-RoBERTa, see `_Backbone`, built as RoBERTa."""


@register
class AlbertBackbone(_Backbone, keras_hub.models.AlbertBackbone):
    """ALBERT, see `_Backbone`.

    Its layers stand in `num_groups` groups of `num_inner_repetitions` layers each, and
    `num_layers` times a group is applied, the same one several times in succession.
    """

    _own: ClassVar[dict] = {"embedding_dim": 128, "num_groups": 1, "num_inner_repetitions": 1}
    _has_two_outputs = _projects_always = True

    def _stack(self, o):
        inner = range(o.num_inner_repetitions)
        return [
            [o.layer(f"group_{group}_inner_layer_{index}") for index in inner]
            for group in range(o.num_groups)
        ]

    def _order(self, o):
        groups = [int(i / (o.num_layers / o.num_groups)) for i in range(o.num_layers)]
        return [layer for group in groups for layer in self.transformer_layers[group]]


@register
class DebertaV3Backbone(_Backbone, keras_hub.models.DebertaV3Backbone):
    """DeBERTa v3, see `_Backbone`. Its positions are relative, in `bucket_size` buckets a side."""

    _own: ClassVar[dict] = {"bucket_size": 256}

    def _positions_and_segments(self, o, tokens, inputs):
        return []

    def _context(self, o, x):
        self.relative_embeddings = RelativePositions(
            hidden_dim=o.hidden_dim,
            bucket_size=o.bucket_size,
            layer_norm_epsilon=o.layer_norm_epsilon,
            kernel_initializer=o.initializer(),
            name="rel_embedding",
            dtype=o.dtype,
        )
        return {"rel_embeddings": self.relative_embeddings(x)}

    def _stack(self, o):
        sizes = {"max_position_embeddings": o.max_sequence_length, "bucket_size": o.bucket_size}
        names = [f"disentangled_attention_encoder_layer_{index}" for index in range(o.num_layers)]
        return [o.layer(name, DisentangledLayer, **sizes) for name in names]
