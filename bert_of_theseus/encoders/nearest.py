"""Which of the predecessor's layers does most nearly what a module of several layers does."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..backend import get_mask, keras, to_numpy
from ..distillation import squared_difference
from ..validation import integer
from ..wrappers import Frozen
from .base import as_list, one_or_all
from .convert import as_encoder
from .initialize import split_into_modules


def nearest_layers(
    predecessor,
    batches: Iterable,
    num_hidden_layers: int,
    module_map: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Finds for each module the layer of the predecessor whose output is nearest to the module's.

    Each of the predecessor's layers is given the hidden states that the module gets. The nearest
    layer has the smallest mean squared difference to what the module makes of them.

    Args:
        predecessor: The fine-tuned encoder, as in `build_theseus_model`.
        batches: Some inputs of the model, batch by batch. A hundred texts are enough.
        num_hidden_layers: Integer, of the successor.
        module_map: As in `build_theseus_model`. Defaults to `None`, even parts.

    Returns:
        List of the indices of layers, one per module, for `initialize_successor`.

    Raises:
        ValueError: if there are no batches, or the predecessor's layers are not alike.

    Example:

    >>> layers = nearest_layers(predecessor, [x[:128]], num_hidden_layers=3)
    >>> initialize_successor(predecessor, successor, layers)
    """
    encoder = as_encoder(predecessor)
    n = encoder.num_hidden_layers
    depth = integer("num_hidden_layers", num_hidden_layers, 1, n)
    modules = split_into_modules(n, depth, module_map)
    check_alike(encoder)
    model = _distances(encoder, modules)
    found = [[to_numpy(x) for x in model(inputs, training=False)] for inputs in batches]
    if not found:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    # In three digits, so that rounding does not choose another layer in another run.
    distances = [float(f"{distance:.3g}") for distance in np.mean(found, axis=0)]
    return [int(np.argmin(distances[i * n : (i + 1) * n])) for i in range(depth)]


def check_alike(encoder) -> None:
    """Raises a `ValueError` unless any layer of `encoder` could stand for any other."""
    found = []
    for index in range(encoder.num_hidden_layers):
        layer = encoder.module([index], f"layer_{index}")
        shapes = [tuple(x.shape) for x in (layer.inputs[0], layer.outputs[0], *layer.weights)]
        found.append(shapes)
        if shapes != found[0]:
            raise ValueError(
                "The nearest layers can be found where all layers are alike, in their shapes and "
                f"in those of their weights. Received: layer 0 with {found[0]}, and layer {index} "
                f'with {shapes}. Choose layers by another name, such as "first", or by a list.'
            )


def _distances(encoder, modules):
    """Model: the inputs -> for each module, and each layer, how far the layer is from it."""
    layers = [
        Frozen(encoder.module([index], f"layer_{index}"), dropout=False, name=f"frozen_{index}")
        for index in range(encoder.num_hidden_layers)
    ]
    embed = encoder.embedding_model("embeddings")
    state = encoder.inputs if embed is None else as_list(embed(one_or_all(encoder.inputs)))
    x, *context = state
    padding_mask = encoder.padding_mask(encoder.inputs)
    outputs = []
    for module in modules:
        start = one_or_all([x, *context])
        found = [layer(start) for layer in layers]
        x = found[module[0]]
        for index in module[1:]:
            x = layers[index](one_or_all([x, *context]))
        outputs += [_Distance()([x, output], padding_mask=padding_mask) for output in found]
    return keras.Model(encoder.input_structure, outputs)


class _Distance(keras.layers.Layer):
    """The mean squared difference of two hidden states, without padding."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, padding_mask=None):
        mask = get_mask(inputs[0]) if padding_mask is None else padding_mask
        return squared_difference(*inputs, mask)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return ()
