"""The model that prepares the successor: each of its layers learns its module's work."""

from collections.abc import Sequence

from ..backend import keras
from ..distillation import HiddenDistillation
from ..encoders.base import as_list, one_or_all
from ..encoders.initialize import copy_weights
from ..layers import BinaryRandomChoice, valid_rate
from ..noise import TokenNoise
from ..validation import number
from ..wrappers import Frozen, WithoutDropout
from .plan import plan_parts, spawn_seeds
from .theseus import TheseusModel


def build_warm_start_model(
    predecessor,
    successor,
    classifier: keras.layers.Layer | None = None,
    replacement_rate: float = 0.5,
    embeddings: str = "predecessor",
    module_map: Sequence[Sequence[int]] | None = None,
    noise: float = 0.0,
    seed: int | None = None,
    name: str = "warm_start",
) -> keras.Model:
    """Builds the model in which each successor layer learns to do what its module does.

    The predecessor runs as it does at inference, and its hidden states after each module are what
    the successor's layers learn to make: the loss is the sum of the mean squared differences, see
    `HiddenDistillation`. A successor layer takes the predecessor's hidden states, as its module
    does, or those that the successor's layer below has made, at random, with a draw per layer and
    batch. So it learns its module's work, and to do it with what it will get. Labels are not used.
    With `noise`, tokens of other texts in place of some show it more of that work.

    Train it without a loss, `compile(optimizer)`, for a few hundred steps at a high learning rate,
    while the rate rises to 1. Then build the Theseus model. At inference this model runs the
    successor's layers on the predecessor's embeddings, without what follows the last layer. A step
    costs a forward pass of the predecessor, and a forward and a backward pass of the successor.

    Args:
        predecessor, successor, classifier, module_map, seed: As in `build_theseus_model`.
        embeddings: `"predecessor"` copies the predecessor's embeddings into the successor;
            `"replace"` leaves the successor's as they are. The layers learn on the predecessor's.
            Defaults to `"predecessor"`.
        replacement_rate: Float in [0, 1]. Probability that a successor layer takes hidden states
            of the successor. At 0 the layers learn apart from each other, at 1 as one stack;
            `set_replacement_rate` changes it. Defaults to `0.5`.
        noise: Float in [0, 1]. Probability that a token is replaced, for predecessor and successor
            alike, by that of another text of the batch, see `TokenNoise`. Without embeddings or
            positions there is none. It takes time to learn from: 0.2 helps where there are 1,500
            steps, and harms where there are 200. Defaults to `0.0`.
        name: String. Name of the model.

    Returns:
        A `keras.Model` from the predecessor's inputs to the hidden states after the last of the
        successor's layers, not compiled. If the successor has but one layer, there is no choice.

    Raises:
        TypeError, ValueError: as in `build_theseus_model`.

    Example:

    >>> warm_start = build_warm_start_model(predecessor, successor, classifier)
    >>> warm_start.compile(keras.optimizers.Adam(1e-3))
    >>> schedule = LinearReplacement(0.0, fraction=0.75)
    >>> scheduler = ReplacementRateScheduler(schedule)
    >>> warm_start.fit(x, steps_per_epoch=300, callbacks=[scheduler])
    """
    valid_rate(replacement_rate)
    number("noise", noise, "[0, 1]")
    plan = plan_parts(predecessor, successor, classifier, embeddings, module_map)
    *seeds, noise_seed = spawn_seeds(seed, len(plan.modules))
    copy_weights(plan.copied)
    padding_mask = plan.predecessor.padding_mask(plan.predecessor.inputs)
    x, context = plan.predecessor.inputs[0], []
    if plan.embeddings is not None:
        embeddings = Frozen(plan.embeddings[0], dropout=False, name="frozen_embeddings")
        x, *context = as_list(embeddings(one_or_all(plan.predecessor.inputs)))
        if noise and len(x.shape) > 2:
            x = TokenNoise(noise, noise_seed, name="noise")(x, padding_mask=padding_mask)
    taken = x
    for index, (old, new) in enumerate(plan.modules):
        old = Frozen(old, dropout=False, name=f"frozen_predecessor_module_{index}")
        # Dropout would be noise in what is to be learnt exactly.
        new = WithoutDropout(new, name=f"successor_module_{index}")
        x = old(one_or_all([x, *context]))
        pair = [x, new(one_or_all([taken, *context]))]
        term = HiddenDistillation(name=f"hidden_distillation_{index}")
        taken = pair[1] = term(pair, padding_mask=padding_mask)
        if index < len(seeds):  # none above takes the last states
            choice = BinaryRandomChoice(replacement_rate, seeds[index], name=f"choice_{index}")
            taken = choice(pair)
    return TheseusModel(plan.predecessor.input_structure, taken, name=name)
