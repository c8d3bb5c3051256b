"""What is put on top of an encoder: from hidden states to a task's output."""

from bert_of_theseus.backend import keras, ops, quiet_about_masks, register

__all__ = [
    "FirstToken",
    "PositionSoftmax",
    "classification_head",
    "pooler_classification_head",
    "span_head",
    "tagging_head",
]


@register
class FirstToken(keras.layers.Layer):
    """Takes the first token's vector, BERT's `[CLS]`.

    `(batch_size, sequence_length, hidden_size)` becomes `(batch_size, hidden_size)`. The mask ends
    here, as there is no sequence any more.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return inputs[:, 0]

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *tuple(input_shape)[2:])


def classification_head(
    hidden_size: int, num_classes: int, name: str = "classifier", activation: str = "softmax"
):
    """Builds a classifier of texts: softmax over a dense layer on the `[CLS]` vector.

    The head of the original article. Other programs know no such head; where the model is to run
    elsewhere, `pooler_classification_head` is BERT's own.

    Args:
        hidden_size: width of the encoder's output.
        num_classes: number of classes.
        name: name of the model.
        activation: of the output: `"softmax"`, `"sigmoid"` (independent labels) or `"linear"`
            (regression, or logits).

    Returns:
        A Keras model from `(batch_size, sequence_length, hidden_size)` to
        `(batch_size, num_classes)`.
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
):
    """Builds BERT's own classifier of texts: pooler (dense, tanh), dropout and dense on `[CLS]`.

    The head of Google's `run_classifier.py` and of `BertForSequenceClassification`, so a model
    with it can be saved for either (`checkpoints.save_pretrained`). The pooler stands here and not
    in the encoder, whose hidden states are what the modules are exchanged in.

    Args:
        hidden_size: width of the encoder's output.
        num_classes: number of classes.
        name: name of the model.
        activation: of the output: `"softmax"`, `"sigmoid"` or `"linear"`.
        dropout_rate: dropout between pooler and output.

    Returns:
        A Keras model from `(batch_size, sequence_length, hidden_size)` to
        `(batch_size, num_classes)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = FirstToken(name=f"{name}_first_token")(inputs)
    x = _dense(hidden_size, "tanh", f"{name}_pooler")(x)
    x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    return _head(inputs, _dense(num_classes, activation, f"{name}_dense")(x), name)


def tagging_head(
    hidden_size: int,
    num_labels: int,
    name: str = "tagger",
    activation: str = "softmax",
    dropout_rate: float = 0.1,
):
    """Builds a tagger: softmax over dropout and a dense layer at every position.

    The head of `BertForTokenClassification`. The mask of the hidden states passes through, so
    padding adds nothing to the loss.

    Args:
        hidden_size: width of the encoder's output.
        num_labels: number of labels.
        name: name of the model.
        activation: of the output: `"softmax"`, `"sigmoid"` or `"linear"`.
        dropout_rate: dropout before the output.

    Returns:
        A Keras model from `(batch_size, sequence_length, hidden_size)` to
        `(batch_size, sequence_length, num_labels)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(inputs)
    return _head(inputs, _dense(num_labels, activation, f"{name}_dense")(x), name)


@register
class PositionSoftmax(keras.layers.Layer):
    """Turns scores of positions into distributions over them.

    `(batch_size, sequence_length, n)` becomes `(batch_size, n, sequence_length)`, probabilities
    over the last axis. What the mask leaves out has none, and the mask ends here.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        scores = ops.transpose(inputs, (0, 2, 1))
        if mask is not None:
            scores += (ops.cast(mask, scores.dtype)[:, None] - 1.0) * 1e4  # float16 holds it too
        return keras.activations.softmax(scores, axis=-1)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        batch_size, length, n = input_shape
        return (batch_size, n, length)


def span_head(hidden_size: int, name: str = "span", dropout_rate: float = 0.1):
    """Builds a reader: where in the text an answer starts, and where it ends.

    BERT's own for SQuAD, dropout and a dense layer with two scores at every position, and the
    softmax of each over the positions.

    Args:
        hidden_size: width of the encoder's output.
        name: name of the model.
        dropout_rate: dropout before the output.

    Returns:
        A Keras model from `(batch_size, sequence_length, hidden_size)` to `(batch_size, 2,
        sequence_length)`.
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
