"""Distillation: a second loss, from a frozen teacher."""

from ..backend import KERAS_NAME, input_structure, keras
from ..distillation import LogitsDistillation
from .theseus import TheseusModel

__all__ = ["distil"]


def distil(
    model: keras.Model,
    teacher: keras.layers.Layer,
    temperature: float = 2.0,
    weight: float = 1.0,
    from_logits: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Adds the loss of distillation from a frozen teacher to the training of a classifier.

    The loss is added to the one that the model is compiled with, see `LogitsDistillation`. The
    new model has the layers of `model` and predicts as it does. It trains what `model` trains:
    of a Theseus model the successor, of any other classifier all of it; and of the teacher
    nothing, whatever its flags.

    A teacher that shares layers with the model, as the predecessor does with a Theseus model,
    goes into weights files; Keras' whole-model files do not restore layers that two models share.

    Args:
        model: The student: a Theseus model, an extracted successor, or any functional or
            sequential classifier with one output.
        teacher: Keras model or layer from the same inputs to an output of the same shape: the
            fine-tuned predecessor with its head, say. One that takes a dict is given the
            student's inputs by their names.
        temperature: Number above 0. Defaults to `2.0`.
        weight: Number of at least 0, the weight of the added loss. Defaults to `1.0`.
        from_logits: Boolean. Whether both outputs are logits, not probabilities. Defaults to
            `False`.
        name: String. Defaults to `None`, `"distilled_"` before the student's name.

    Returns:
        A `keras.Model` on the student's inputs, not compiled.

    Raises:
        TypeError: if `model` or `teacher` is not what it must be.
        ValueError: if inputs or outputs do not fit, or the student trains weights that the
            teacher uses.

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
        _on_inputs_of(model, teacher),
        temperature,
        weight,
        from_logits,
        # Of the outputs' own precision, so that they stay as they are.
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
    distilled = TheseusModel(
        input_structure(model), outputs, name=name or f"distilled_{model.name}"
    )
    if hasattr(model, "_theseus_parts"):
        object.__setattr__(distilled, "_theseus_parts", model._theseus_parts)
    return distilled


def _on_inputs_of(model, teacher):
    """`teacher`, as a function of a list of tensors like `model.inputs`."""
    needed = getattr(teacher, "inputs", None) if isinstance(teacher, keras.Model) else None
    if not needed:  # a layer, which says what it takes when it is called
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
