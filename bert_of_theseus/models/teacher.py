"""`distil`: training with a second loss, from a frozen teacher.

`take_apart` makes of such a model what `training.fit` needs to ask the teacher once: the teacher,
and a model that takes its answers in its place.
"""

from ..backend import KERAS_NAME, call_of, get_mask, input_structure, keras
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

    In Keras' `fit` the teacher runs in each step. `training.fit`, and so `compress`, computes its
    outputs once where it can, and reads them from a file.

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


# Names of what a model that is taught by answers takes beside the student's inputs.
INPUTS, ANSWERS, PADDING_MASK = "student_inputs", "teacher_answers", "padding_mask"


class TaughtModel(keras.Model):
    """A student with the loss of distillation, on answers that are part of its inputs.

    Args:
        student: Keras model with one output.
        distillation: `LogitsDistillation`, whose teacher is not used.

    Call arguments:
        inputs: The student's inputs: then there is no loss. Or a dict of them, of the teacher's
            outputs for them and, where these are not for each position, of a mask of those
            that count, by the names above.
        training: Boolean, as in other layers.

    Returns:
        The student's outputs.
    """

    def __init__(self, student, distillation, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the answers stay in float32
        self.student = student
        self.term = LogitsDistillation(
            keras.layers.Activation("linear", dtype="float32"),
            distillation.temperature,
            distillation.weight,
            distillation.from_logits,
            dtype="float32",
        )
        self.term.build([tuple(student.outputs[0].shape)] * 2)
        self.built = True

    def call(self, inputs, training=None):
        answers = padding_mask = None
        if isinstance(inputs, dict) and ANSWERS in inputs:
            answers, padding_mask = inputs[ANSWERS], inputs.get(PADDING_MASK)
            inputs = inputs[INPUTS]
        outputs = self.student(inputs, training=training)
        if answers is not None:
            if get_mask(outputs) is not None:
                padding_mask = None
            self.term([outputs, answers], padding_mask=padding_mask, training=training)
        return outputs

    # What the student trains is decided there.

    def _frozen_ids(self):
        return self.student._frozen_ids()

    def zero_grad(self, set_to_none=True):
        self.student.zero_grad(set_to_none)

    @property
    def trainable_weights(self):
        return self.student.trainable_weights

    @property
    def non_trainable_weights(self):
        return self.student.non_trainable_weights

    @property
    def trainable_variables(self):
        return self.student.trainable_variables

    @property
    def non_trainable_variables(self):
        return self.student.non_trainable_variables


def take_apart(model: keras.Model) -> tuple[TaughtModel, keras.Model] | None:
    """Takes the teacher out of a model that `distil` built.

    Args:
        model: Keras model.

    Returns:
        A `TaughtModel` with the weights of `model`, and the teacher as a model on the same inputs;
        `None` if no teacher runs in `model`.
    """
    if len(getattr(model, "outputs", None) or ()) != 1:
        return None
    layer, tensors, _ = call_of(model.outputs[0])
    if not isinstance(layer, LogitsDistillation) or not layer.weight:
        return None
    outputs, *inputs = tensors
    student = TheseusModel(input_structure(model), outputs, name=model.name)
    answers = layer.teacher(inputs[0] if len(inputs) == 1 else inputs)
    teacher = keras.Model(input_structure(model), answers, name="teacher")
    taught = TaughtModel(student, layer, name=model.name)
    if hasattr(model, "_theseus_parts"):
        object.__setattr__(taught, "_theseus_parts", model._theseus_parts)
    return taught, teacher
