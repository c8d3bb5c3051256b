"""The successor's initial weights, from those of the predecessor."""

import contextlib
from collections.abc import Sequence

from ..backend import frozen, to_numpy
from ..validation import integer, is_integer, one_of
from .convert import as_encoder

# Names of choices of layers, for `initialize_successor`.
CHOICES = "first", "last", "every_kth", "module_first"


def initialize_successor(
    predecessor,
    successor,
    layers: str | Sequence[int] = "first",
    module_map: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Initializes the successor with weights of the predecessor, layer by layer.

    Each successor layer gets the weights of one predecessor layer. The embeddings, and what
    follows the last layer (a pooler, say), are copied too where both encoders have them in the
    same shapes. If one of the layers does not fit, nothing is copied.

    Args:
        predecessor: The encoder to copy from, fine-tuned or only pretrained: what
            `build_theseus_model` takes.
        successor: The encoder to copy to, with at most as many layers.
        layers: Which of the predecessor's n layers initialize the successor's m.
            `"first"`, the first m, did best in the paper; `"last"`, the last m;
            `"every_kth"`, each k-th for k = n / m, that is layer `(i + 1) * n // m - 1` for
            layer i, 3, 7 and 11 of 12 into 3; `"module_first"`, the first layer of each module
            of `module_map`; or a list of m indices, as `nearest_layers` finds. Defaults to
            `"first"`.
        module_map: As in `build_theseus_model`; read by `"module_first"`. Defaults to `None`.

    Returns:
        List of the indices of the predecessor's layers, one per successor layer.

    Raises:
        ValueError: if `layers` is none of those, or a layer does not fit its successor.

    Example:

    >>> initialize_successor(predecessor, successor)
    [0, 1, 2]

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020)
    """
    sources, pairs = pair_initial_weights(predecessor, successor, layers, module_map)
    copy_weights(pairs)
    return sources


def pair_initial_weights(predecessor, successor, layers="first", module_map=None):
    """What `initialize_successor` copies: the indices that it returns, and pairs of weights."""
    predecessor = as_encoder(predecessor)
    successor = as_encoder(successor, like=predecessor)
    sources = _source_layers(
        layers, module_map, predecessor.num_hidden_layers, successor.num_hidden_layers
    )
    pairs = []
    for index, source in enumerate(sources):
        pairs += pair_weights(
            predecessor.module([source], f"predecessor_layer_{source}"),
            successor.module([index], f"successor_layer_{index}"),
            f"layer {source}",
            f"layer {index}",
            " A successor of another kind starts as it is: initialize=None in `compress`.",
        )
    for part in ("embedding_model", "end_model"):
        ends = [getattr(encoder, part)("end") for encoder in (predecessor, successor)]
        if None not in ends:
            with contextlib.suppress(ValueError):  # other shapes: the successor keeps its weights
                pairs += pair_weights(*ends, part, part)
    return sources, pairs


def build_successor_backbone(
    predecessor, num_hidden_layers: int, layers: str | Sequence[int] = "first"
):
    """Builds a successor for a KerasHub predecessor: its backbone with fewer layers.

    The successor has the predecessor's config and weights: those of `num_hidden_layers` of its
    layers, and all others; see `initialize_successor`. Call it before the predecessor is
    fine-tuned for a successor that starts from pretrained layers, or afterwards.

    Args:
        predecessor: KerasHub backbone or `TextClassifier`.
        num_hidden_layers: Integer, the number of layers.
        layers: As in `initialize_successor`. Defaults to `"first"`.

    Returns:
        A backbone of the same class.

    Raises:
        TypeError: for other hosts, whose successors are built by hand.
        ValueError: if the predecessor has fewer layers.

    Example:

    >>> classifier = keras_hub.models.BertTextClassifier.from_preset("bert_base_en", num_classes=2)
    >>> successor = build_successor_backbone(classifier, 3)
    >>> theseus = build_theseus_model(classifier, successor)
    """
    encoder = as_encoder(predecessor)
    depth = integer("num_hidden_layers", num_hidden_layers, 1, encoder.num_hidden_layers)
    successor = encoder.shallower(depth)
    initialize_successor(encoder, successor, layers)
    return successor


def split_into_modules(
    predecessor_layers: int,
    successor_layers: int,
    module_map: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """For each successor layer the indices of the predecessor layers that it replaces.

    Args:
        predecessor_layers: Integer, the number of the predecessor's layers, n.
        successor_layers: Integer, the number of the successor's layers, m.
        module_map: The lists, to be checked. Defaults to `None`: layer i of the successor
            replaces layers `round(i * n / m)` up to, and without, `round((i + 1) * n / m)`.

    Raises:
        ValueError: if the successor has more layers, or `module_map` is not such lists.
    """
    n, m = predecessor_layers, successor_layers
    if m > n:
        raise ValueError(
            f"The successor has more layers ({m}) than the predecessor ({n}). It must have at most "
            "as many."
        )
    if module_map is None:
        cuts = [round(i * n / m) for i in range(m + 1)]
        return [list(range(start, stop)) for start, stop in zip(cuts, cuts[1:])]
    modules = [list(layers) for layers in module_map]
    if len(modules) != m or not all(modules) or sum(modules, []) != list(range(n)):
        raise ValueError(
            f"`module_map` must hold {m} non-empty lists, one per successor layer, which together "
            f"name the predecessor's layers 0 to {n - 1} once each, in order. "
            f"Received: {module_map!r}"
        )
    return modules


def _source_layers(layers, module_map, predecessor_layers, successor_layers):
    """For each successor layer the index of the predecessor layer that initializes it."""
    n, m = predecessor_layers, successor_layers
    modules = split_into_modules(n, m, module_map)
    if isinstance(layers, str):
        one_of("layers", layers, CHOICES)
        return {
            "first": list(range(m)),
            "last": list(range(n - m, n)),
            "every_kth": [(i + 1) * n // m - 1 for i in range(m)],
            "module_first": [module[0] for module in modules],
        }[layers]
    indices = list(layers)
    if len(indices) != m or not all(is_integer(i) and 0 <= i < n for i in indices):
        raise ValueError(
            f"`layers` must name {m} of the predecessor's layers 0 to {n - 1}, one per successor "
            f"layer. Received: {layers!r}"
        )
    return [int(i) for i in indices]


def pair_weights(source, target, source_name: str, target_name: str, advice: str = "") -> list:
    """Pairs of weights of two models, one of the predecessor's and one of the successor's.

    Raises:
        ValueError: if the weights differ in number or shape. It names both, and gives `advice`.
    """
    sides = [_weights(source), _weights(target)]
    if [tuple(w.shape) for w in sides[0]] != [tuple(w.shape) for w in sides[1]]:
        shapes = [", ".join(f"{w.name}{tuple(w.shape)}" for w in side) for side in sides]
        raise ValueError(
            f"The predecessor's {source_name} and the successor's {target_name} do not fit each "
            "other: their weights differ in number or shape. "
            f"Predecessor: {shapes[0]}. Successor: {shapes[1]}.{advice}"
        )
    return list(zip(*sides))


def copy_weights(pairs: list) -> None:
    """Copies the first weight of each pair to the second."""
    for source, target in pairs:
        if source is not target:
            # By way of a NumPy array, or both would hold one JAX buffer, which a training step
            # of either gives away.
            target.assign(to_numpy(source))


def _weights(model):
    # Keras 2 orders the weights of nested layers by their flags: within, all have the same ones.
    with frozen([model]):
        return list(model.weights)
