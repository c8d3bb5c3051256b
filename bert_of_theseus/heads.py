"""Task heads on top of an encoder: from hidden states to a task's output.

Each function returns a Keras model with inputs of `(batch_size, sequence_length, hidden_size)`.
`activation` is that of its output: `"softmax"`, `"sigmoid"` for independent labels, or `"linear"`
for regression or logits.
"""

from .backend import keras, ops, quiet_about_masks, register


def classification_head(
    hidden_size: int, num_classes: int, name: str = "classifier", activation: str = "softmax"
):
    """Builds a text classifier: a dense layer on the `[CLS]` vector.

    The head of the original code. Other programs do not know it; to run a model elsewhere, use
    BERT's own, `pooler_classification_head`.

    Args:
        hidden_size: Integer, size of the hidden states.
        num_classes: Integer, number of classes.
        name: String. Name of the model.
        activation: String. Defaults to `"softmax"`.

    Returns:
        A Keras model with outputs of `(batch_size, num_classes)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = FirstToken(name=f"{name}_first_token")(inputs)
    return _head(inputs, _dense(num_classes, activation, f"{name}_dense")(x), name)


def pooler_classification_head(
    hidden_size: int,
    num_classes: int,
    name: str = "classifier",
    activation: str = "softmax",
    dropout_rate: float = 0.1,
    pooler_activation: str = "tanh",
    input_dropout_rate: float = 0.0,
):
    """Builds BERT's text classifier: pooler (dense, tanh), dropout and a dense layer on `[CLS]`.

    The head of Google's `run_classifier.py` and of `BertForSequenceClassification`, so a model
    with it can be saved for both (`checkpoints.save_pretrained`). The pooler is part of the head
    and not of the encoder, whose modules exchange hidden states.

    Other families have the same head with another activation: DistilBERT relu, ELECTRA and DeBERTa
    gelu.

    Args:
        hidden_size: Integer, size of the hidden states.
        num_classes: Integer, number of classes.
        name: String. Name of the model.
        activation: String. Defaults to `"softmax"`.
        dropout_rate: Float, dropout between pooler and output. Defaults to `0.1`.
        pooler_activation: String. Defaults to `"tanh"`.
        input_dropout_rate: Float, dropout before the pooler, as in RoBERTa and ELECTRA. Defaults
            to `0.0`.

    Returns:
        A Keras model with outputs of `(batch_size, num_classes)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = FirstToken(name=f"{name}_first_token")(inputs)
    if input_dropout_rate:
        x = keras.layers.Dropout(input_dropout_rate, name=f"{name}_input_dropout")(x)
    x = _dense(hidden_size, pooler_activation, f"{name}_pooler")(x)
    x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    return _head(inputs, _dense(num_classes, activation, f"{name}_dense")(x), name)


def tagging_head(
    hidden_size: int,
    num_labels: int,
    name: str = "tagger",
    activation: str = "softmax",
    dropout_rate: float = 0.1,
):
    """Builds a tagger: dropout and a dense layer at every position.

    The head of `BertForTokenClassification`. The mask of the hidden states passes through, so
    padding does not count in the loss.

    Args:
        hidden_size: Integer, size of the hidden states.
        num_labels: Integer, number of labels.
        name: String. Name of the model.
        activation: String. Defaults to `"softmax"`.
        dropout_rate: Float, dropout before the output. Defaults to `0.1`.

    Returns:
        A Keras model with outputs of `(batch_size, sequence_length, num_labels)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(inputs)
    return _head(inputs, _dense(num_labels, activation, f"{name}_dense")(x), name)


def span_head(hidden_size: int, name: str = "span", dropout_rate: float = 0.1):
    """Builds a reader, as BERT's for SQuAD: where in the text an answer starts and where it ends.

    Args:
        hidden_size: Integer, size of the hidden states.
        name: String. Name of the model.
        dropout_rate: Float, dropout before the output. Defaults to `0.1`.

    Returns:
        A Keras model with outputs of `(batch_size, 2, sequence_length)`, two distributions over
        the positions.
    """
    inputs = keras.Input((None, hidden_size))
    x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(inputs)
    x = _dense(2, "linear", f"{name}_dense")(x)
    return _head(inputs, PositionSoftmax(name=f"{name}_softmax")(x), name)


def _head(inputs, outputs, name):
    return quiet_about_masks(keras.Model(inputs, outputs, name=name))


def _dense(units, activation, name):
    initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=initializer, name=name
    )


class _EndOfSequence(keras.layers.Layer):
    """Base of layers whose output is no sequence any more: the mask ends here."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return None


@register
class FirstToken(_EndOfSequence):
    """Returns the vector of the first token, BERT's `[CLS]`.

    `(batch_size, sequence_length, hidden_size)` becomes `(batch_size, hidden_size)`.
    """

    def call(self, inputs):
        return inputs[:, 0]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *tuple(input_shape)[2:])


@register
class PositionSoftmax(_EndOfSequence):
    """Turns scores of positions into distributions over the positions that the mask keeps.

    `(batch_size, sequence_length, n)` becomes `(batch_size, n, sequence_length)`.
    """

    def call(self, inputs, mask=None):
        scores = ops.transpose(inputs, (0, 2, 1))
        if mask is not None:
            scores += (ops.cast(mask, scores.dtype)[:, None] - 1.0) * 1e4  # fits in float16
        return keras.activations.softmax(scores, axis=-1)

    def compute_output_shape(self, input_shape):
        batch_size, length, n = input_shape
        return (batch_size, n, length)
