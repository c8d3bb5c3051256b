"""Noise in the hidden states that a warm start begins with."""

from .backend import get_mask, identity, keras, ops, register
from .distribution import add_draw_state, uniform
from .validation import integer, number


@register
class TokenNoise(keras.layers.Layer):
    """Puts tokens of other examples in place of some, in training.

    With probability `rate` a position takes the vector that the batch's previous example has there;
    the first example takes those of the last. Where one of the two is padding, nothing changes. So
    it needs no vocabulary, and what it puts in are tokens as frequent as they are in the data. At
    inference it returns its input.

    Args:
        rate: Float in [0, 1]. Probability that a position is replaced. Defaults to `0.2`.
        seed: Integer. Defaults to `None`, a seed from Python's generator, which
            `keras.utils.set_random_seed` seeds.
        **kwargs: Base layer arguments.

    Call arguments:
        inputs: Tensor, `(batch_size, ..., hidden_size)`, embeddings of tokens.
        padding_mask: Tensor, `(batch_size, ...)`, 1 for what counts and 0 for padding. Defaults to
            `None`, the Keras mask of `inputs`, if they have one.
        training: Boolean, whether to replace any.

    Returns:
        A tensor of the same shape, with the mask of the input.

    Raises:
        ValueError: if `rate` is out of its range.

    References:
        - [SwitchOut](https://arxiv.org/abs/1808.07512) (Wang et al., 2018), which replaces words by
          any of the vocabulary
    """

    def __init__(self, rate=0.2, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.rate = number("rate", rate, "[0, 1]")
        self.seed = integer("seed", seed, optional=True)
        self.draw_state = add_draw_state(self, self.seed)

    def call(self, inputs, padding_mask=None, training=None):
        if not training or not self.rate:
            return identity(inputs)
        shape = ops.shape(inputs)
        positions = [shape[axis] for axis in range(len(inputs.shape) - 1)]
        replaced = uniform(self.draw_state, tuple(positions), "example") < self.rate
        mask = get_mask(inputs) if padding_mask is None else padding_mask
        if mask is not None:
            mask = ops.cast(mask, "bool")
            replaced = ops.logical_and(replaced, ops.logical_and(mask, ops.roll(mask, 1, 0)))
        return ops.where(replaced[..., None], ops.roll(inputs, 1, 0), inputs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
