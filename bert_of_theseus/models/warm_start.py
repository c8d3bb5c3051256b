"""The model that prepares the successor: each of its layers learns its module's work alone."""

from collections.abc import Sequence

from ..backend import keras
from ..distillation import HiddenDistillation
from ..encoders.base import as_list, one_or_all
from ..encoders.initialize import copy_weights
from ..wrappers import Frozen, WithoutDropout
from .plan import plan_parts
from .theseus import TheseusModel


def build_warm_start_model(
    predecessor,
    successor,
    classifier: keras.layers.Layer | None = None,
    embeddings: str = "predecessor",
    module_map: Sequence[Sequence[int]] | None = None,
    name: str = "warm_start",
) -> keras.Model:
    """Builds the model in which each successor layer learns to do what its module does.

    The predecessor runs as it does at inference. Each successor layer takes the hidden states that
    its module takes, and its loss is the mean squared difference between the outputs of both, see
    `HiddenDistillation`. Labels are not used, and no gradient passes from layer to layer: a step
    costs a forward pass of the predecessor, and a forward and a backward pass of the successor.

    Train it without a loss, `compile(optimizer)`, for a few hundred steps at a high learning rate.
    Then build the Theseus model.

    Args:
        predecessor, successor, classifier, embeddings, module_map: As in `build_theseus_model`.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the predecessor's inputs, not compiled. Its output, the hidden states
        after the predecessor's last layer, is there for Keras alone.

    Raises:
        TypeError, ValueError: as in `build_theseus_model`.

    Example:

    >>> warm_start = build_warm_start_model(predecessor, successor, classifier)
    >>> warm_start.compile(keras.optimizers.Adam(1e-3))
    >>> warm_start.fit(x, steps_per_epoch=300)
    """
    plan = plan_parts(predecessor, successor, classifier, embeddings, module_map)
    copy_weights(plan.copied)
    x, context = plan.predecessor.inputs[0], []
    if plan.embeddings is not None:
        embeddings = Frozen(plan.embeddings[0], dropout=False, name="frozen_embeddings")
        x, *context = as_list(embeddings(one_or_all(plan.predecessor.inputs)))
    for index, (old, new) in enumerate(plan.modules):
        state = one_or_all([x, *context])
        old = Frozen(old, dropout=False, name=f"frozen_predecessor_module_{index}")
        # Dropout would be noise in what is to be learnt exactly.
        pair = [old(state), WithoutDropout(new, name=f"successor_module_{index}")(state)]
        x = HiddenDistillation(returned=0, name=f"hidden_distillation_{index}")(pair)
    return TheseusModel(plan.predecessor.input_structure, x, name=name)
