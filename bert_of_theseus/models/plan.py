"""The plan of a Theseus or warm start model: all checks, before a caller's weights are changed."""

from typing import NamedTuple

import numpy as np

from ..backend import keras
from ..encoders import as_encoder, as_head
from ..encoders.base import Encoder, as_list
from ..encoders.initialize import pair_weights, split_into_modules
from ..layers import GATES, SAMPLINGS, common_shape, valid_rate
from ..validation import integer, number, one_of


class Plan(NamedTuple):
    """The parts of a Theseus model, which fit each other.

    Attributes:
        predecessor: `Encoder`.
        successor: `Encoder`.
        classifier: Keras model or layer.
        embeddings: `(predecessor_model, successor_model)`, or `None` without embeddings.
        modules: List of `(predecessor_model, successor_model)`, from the bottom up.
        final: Model of what the successor makes of the last hidden states, or `None`.
        copied: List of pairs of weights, to be copied from predecessor to successor.
        draws: List of the arguments of each choice, from the bottom up; `None` from `plan_parts`.
    """

    predecessor: Encoder
    successor: Encoder
    classifier: keras.layers.Layer
    embeddings: tuple | None
    modules: list
    final: keras.Model | None
    copied: list
    draws: list | None = None


def make_plan(
    predecessor,
    successor,
    classifier,
    *,
    replacement_rate,
    execution,
    embeddings,
    module_map,
    at_least_one,
    hidden_loss_weight,
    gate,
    sampling,
    seed,
) -> Plan:
    """Makes the plan for the arguments of `build_theseus_model`, or raises what is wrong."""
    _check_options(replacement_rate, execution, at_least_one, hidden_loss_weight, gate, sampling)
    plan = plan_parts(predecessor, successor, classifier, embeddings, module_map)
    names = [f"module_{index}" for index in range(len(plan.modules))]
    if plan.embeddings is not None and embeddings == "replace":
        names.insert(0, "embeddings")
    seeds = spawn_seeds(seed, len(names))
    draws = [
        {
            "name": name,
            "replacement_rate": replacement_rate,
            "seed": seeds[index],
            "modules_left": len(names) - index if at_least_one else None,
            # For the module above; there is none above the last.
            "return_replaced": (execution == "lazy" or at_least_one) and index < len(names) - 1,
        }
        for index, name in enumerate(names)
    ]
    return plan._replace(draws=draws)


def plan_parts(predecessor, successor, classifier, embeddings, module_map) -> Plan:
    """Makes the plan without its draws: the parts for these arguments of `build_theseus_model`."""
    one_of("embeddings", embeddings, ("predecessor", "replace"))
    predecessor = as_encoder(predecessor)
    classifier = as_head(classifier, predecessor)
    successor = as_encoder(successor, like=predecessor)
    layers = split_into_modules(
        predecessor.num_hidden_layers, successor.num_hidden_layers, module_map
    )
    ends = _embedding_models(predecessor, successor, embeddings == "replace")
    copied = []
    if ends is not None and embeddings == "predecessor":
        advice = ' Use embeddings="replace" to train the embeddings of the successor.'
        copied += pair_weights(*ends, "embeddings", "embeddings", advice)
    modules = _module_models(predecessor, successor, layers)
    final = _final_models(predecessor, successor)
    if final is not None:
        copied += pair_weights(*final, "last layers", "last layers")
    return Plan(predecessor, successor, classifier, ends, modules, final and final[1], copied)


def _check_options(replacement_rate, execution, at_least_one, hidden_loss_weight, gate, sampling):
    one_of("execution", execution, ("lazy", "dense"))
    one_of("gate", gate, GATES)
    one_of("sampling", sampling, SAMPLINGS)
    valid_rate(replacement_rate)
    if number("hidden_loss_weight", hidden_loss_weight) and execution == "lazy":
        raise ValueError(
            f"`hidden_loss_weight` ({hidden_loss_weight}) needs the outputs of both modules, and "
            'execution="lazy" runs one of them. Use execution="dense".'
        )
    if gate == "bernoulli" and sampling != "example":  # a module is replaced as a whole
        return
    if execution == "lazy":
        raise ValueError(
            'execution="lazy" runs one of two modules on all examples, but '
            f"gate={gate!r} with sampling={sampling!r} needs the outputs of both. Use "
            'execution="dense".'
        )
    if at_least_one:
        raise ValueError(
            "`at_least_one` draws again where no module is the successor's in a batch, which "
            'needs gate="bernoulli" and sampling="batch" or "replica". Received: '
            f"gate={gate!r}, sampling={sampling!r}"
        )


def spawn_seeds(seed: int | None, count: int) -> list[int | None]:
    """Unlike seeds for `count` choices; `None` for each if `seed` is."""
    seed = integer("seed", seed, minimum=0, optional=True)
    if seed is None:
        return [None] * count
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count)]


def _embedding_models(predecessor, successor, replaced):
    """The embeddings of both encoders, which must map the same inputs to the same tensors."""
    old = predecessor.embedding_model("predecessor_embeddings")
    new = successor.embedding_model("successor_embeddings")
    if (new is None) != (old is None):
        raise ValueError(
            "Both encoders need an embedding, or neither. Received: "
            f"{'none' if old is None else 'one'} in the predecessor, "
            f"{'none' if new is None else 'one'} in the successor. A plain list of layers from "
            "hidden states to hidden states is given a copy of the predecessor's."
        )
    if new is not None and len(new.inputs) != len(old.inputs):
        names = [[tensor.name for tensor in model.inputs] for model in (old, new)]
        raise ValueError(
            "Both encoders must take the same inputs. Received: "
            f"{names[0]} in the predecessor, {names[1]} in the successor."
        )
    contexts = [len(encoder.state_before(0)) - 1 for encoder in (predecessor, successor)]
    if contexts[0] != contexts[1]:
        raise ValueError(
            "The layers of both encoders must take the same beside the hidden states: one with an "
            'attention mask made of its inputs (application="lm", "unilm") does not go with one '
            f"without. Received: {contexts[0]} more tensors in the predecessor, {contexts[1]} in "
            "the successor."
        )
    if new is None:
        return None
    if not replaced:  # then their weights are compared
        return old, new
    common_shape("'embeddings'", *(as_list(model.outputs)[0].shape for model in (old, new)))
    if contexts[1] and keras.Model(new.inputs, as_list(new.outputs)[1:]).weights:
        raise ValueError(
            'embeddings="replace" replaces the hidden states alone, but the layers of '
            f"{successor.name!r} take more tensors that its embeddings make with their weights. "
            'Use embeddings="predecessor".'
        )
    return old, new


def _module_models(predecessor, successor, layers):
    """The modules of both encoders, which must not share weights."""
    modules, frozen, trained = [], set(), set()
    for index, indices in enumerate(layers):
        old = predecessor.module(indices, f"predecessor_module_{index}")
        new = successor.module([index], f"successor_module_{index}")
        common_shape(f"'module_{index}'", old.outputs[0].shape, new.outputs[0].shape)
        frozen.update(map(id, old.weights))
        trained.update(map(id, new.weights))
        if frozen & trained:
            raise ValueError(
                "The successor has layers that the predecessor has too, and training it would "
                "change the predecessor. Build it with layers of its own (bert4keras: without "
                "`layers=`)."
            )
        modules.append((old, new))
    return modules


def _final_models(predecessor, successor):
    """What both encoders make of the last hidden states: the same, or nothing."""
    old = predecessor.final_model("predecessor_final")
    new = successor.final_model("successor_final")
    if (old is None) != (new is None):
        one, other = ("predecessor", "successor") if new is None else ("successor", "predecessor")
        raise ValueError(
            f"The {one}'s last layers make something of the hidden states that the {other}'s do "
            "not (a pooler, say). Build both with the same options."
        )
    return None if new is None else (old, new)
