"""The choices of a Theseus model, where each module is told what was drawn below it.

A `ModuleChoice` whose module is the predecessor's needs no backward pass if no module below was
replaced in this batch, and `at_least_one` draws again if none was. So a boolean goes from module
to module beside the hidden states: was a module up to here replaced?
"""

from ..backend import ops, register
from ..layers import BinaryRandomChoice, ModuleChoice
from ..validation import positive_integer


class _Chained:
    """A choice with a second input and a second output: whether a module was replaced so far.

    Args:
        modules_left: Integer, the number of modules from this one up, if at least one of all
            modules is to be replaced in each batch. Defaults to `None`, independent draws.
        return_replaced: Boolean. Whether to return `(output, replaced)`. Defaults to `False`.

    Call arguments:
        inputs: What the choice takes.
        replaced_below: Scalar boolean tensor; `False` for the first module; `None` for not known.
        training: Boolean, whether to draw.
    """

    def __init__(self, *args, modules_left=None, return_replaced=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.modules_left = positive_integer("modules_left", modules_left, optional=True)
        self.return_replaced = return_replaced

    @property
    def needs_equal_rates(self):
        return (self.modules_left or 1) > 1

    def call(self, inputs, replaced_below=None, training=None):
        output, chosen = self._choose(inputs, training, replaced_below)
        if not self.return_replaced:
            return output
        return output, ops.logical_or(chosen, _as_tensor(replaced_below))

    def _chance(self, replaced_below):
        rate = super()._chance(replaced_below)
        if self.modules_left is None:
            return rate
        # If nothing below was replaced: the chance of this module among those that are left, once
        # the draws that replace nothing are drawn again, rate / (1 - (1 - rate)**modules_left).
        # By its geometric series, which is finite at rate 0 and does not cancel near it.
        series = 1.0
        for _ in range(self.modules_left - 1):
            series = 1.0 + (1.0 - rate) * series
        return ops.where(_as_tensor(replaced_below), rate, ops.cast(1.0 / series, "float32"))

    def compute_mask(self, inputs, mask=None):
        mask = super().compute_mask(inputs, mask)
        return (mask, None) if self.return_replaced else mask

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return (shape, ()) if self.return_replaced else shape

    def get_config(self):
        own = {"modules_left": self.modules_left, "return_replaced": self.return_replaced}
        return {**super().get_config(), **own}


@register
class ChainedRandomChoice(_Chained, BinaryRandomChoice):
    __doc__ = _Chained.__doc__


@register
class ChainedModuleChoice(_Chained, ModuleChoice):
    __doc__ = _Chained.__doc__


def _as_tensor(replaced):
    return ops.convert_to_tensor(bool(replaced) if replaced is None else replaced, dtype="bool")
