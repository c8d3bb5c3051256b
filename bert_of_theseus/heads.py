"""What is put on top of an encoder: from hidden states to a task's output."""

from bert_of_theseus.backend import keras, register

__all__ = ["FirstToken", "classification_head"]


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


def classification_head(hidden_size: int, num_classes: int, name: str = "classifier"):
    """Builds a classifier of texts: softmax over a dense layer on the `[CLS]` vector.

    Args:
        hidden_size: width of the encoder's output.
        num_classes: number of classes.
        name: name of the model.

    Returns:
        A Keras model from `(batch_size, sequence_length, hidden_size)` to
        `(batch_size, num_classes)`.
    """
    inputs = keras.Input((None, hidden_size))
    x = FirstToken(name=f"{name}_first_token")(inputs)
    x = keras.layers.Dense(
        num_classes,
        activation="softmax",
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name=f"{name}_dense",
    )(x)
    return keras.Model(inputs, x, name=name)
