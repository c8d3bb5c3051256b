"""`distil`: training with a second loss, from a frozen teacher."""

from ..backend import KERAS_NAME, input_structure, keras
from ..distillation import LogitsDistillation
from .theseus import TheseusModel


def distil(
    model: keras.Model,
    teacher: keras.layers.Layer,
    temperature: float = 2.0,
    weight: float = 1.0,
    from_logits: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds a model that trains like `model`, with a distillation loss in addition.

    See `LogitsDistillation` for the loss. The new model has the layers of `model`, predicts as it
    does, and trains the same weights: of a Theseus model the successor's, of any other classifier
    all. The teacher is never trained.

    Keras' whole-model files do not restore layers that two models share, as a Theseus model and
    the predecessor as its teacher do. Use weights files.

    Args:
        model: The student: a Theseus model, an extracted successor, or any functional or
            sequential classifier with one output.
        teacher: Keras model or layer from the same inputs to an output of the same shape, such
            as the fine-tuned predecessor with its head. One that takes a dict is called on the
            student's inputs by name.
        temperature: Number above 0. Defaults to `2.0`.
        weight: Number of at least 0, a factor of the added loss. Defaults to `1.0`.
        from_logits: Boolean. Whether both outputs are logits rather than probabilities. Defaults
            to `False`.
        name: String. Defaults to `None`, `"distilled_"` and the student's name.

    Returns:
        A `keras.Model` on the student's inputs, not compiled.

    Raises:
        TypeError: if `model` or `teacher` is not a Keras model or layer.
        ValueError: if inputs or outputs do not fit, or the student trains weights of the teacher.

    Example:

    >>> distilled = distil(theseus, fine_tuned, temperature=4.0)
    >>> distilled.compile("adam", "sparse_categorical_crossentropy")
    >>> distilled.fit(x, y)
    >>> small = build_successor_model(theseus)
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "`model` must be a functional or built sequential model of the Keras in use "
            f"({KERAS_NAME}). Received: {model!r}"
        )
    if len(model.outputs) != 1:
        raise ValueError(f"`model` must have one output. Received: {len(model.outputs)} of them")
    layer = LogitsDistillation(
        _taking_list(teacher, model),
        temperature,
        weight,
        from_logits,
        # The precision of the outputs, so that they stay as they are.
        dtype=getattr(model.outputs[0].dtype, "name", model.outputs[0].dtype),
    )
    outputs = layer([model.outputs[0], *model.inputs])
    used = set(map(id, layer.weights))
    shared = [w.name for w in model.trainable_weights if id(w) in used]
    if shared:
        raise ValueError(
            f"The student trains weights that its teacher uses: {shared}. The teacher would "
            "change while it teaches. Give one of them a copy; for a head that both have: "
            "build_successor_model(theseus, copy), copy being keras.models.clone_model(head) "
            "after copy.set_weights(head.get_weights())."
        )
    name = name or f"distilled_{model.name}"
    distilled = TheseusModel(input_structure(model), outputs, name=name)
    if hasattr(model, "_theseus_parts"):
        object.__setattr__(distilled, "_theseus_parts", model._theseus_parts)
    return distilled


def _taking_list(teacher, model):
    """`teacher`, as a function of a list of tensors like `model.inputs`."""
    needed = getattr(teacher, "inputs", None) if isinstance(teacher, keras.Model) else None
    if not needed:  # a layer, which checks its inputs when it is called
        return teacher
    if len(needed) != len(model.inputs):
        raise ValueError(
            f"The teacher takes {len(needed)} inputs, the student {len(model.inputs)}."
        )
    names = input_structure(teacher)
    if not isinstance(names, dict):
        return teacher
    inputs = [keras.Input(tuple(x.shape)[1:], dtype=x.dtype, name=x.name) for x in model.inputs]
    by_name = {x.name: x for x in inputs}
    if set(by_name) != set(names):
        raise ValueError(
            f"The teacher takes a dict of {sorted(names)}; the student's inputs are named "
            f"{sorted(by_name)}."
        )
    return keras.Model(inputs, teacher(by_name), name=f"{teacher.name}_by_name")
