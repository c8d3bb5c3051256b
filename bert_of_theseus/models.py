"""The successor's start, the Theseus model it is trained in, and the successor that is kept."""

import contextlib
import numbers
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .backend import (
    SAFE_MODE_IMPORTS,
    frozen,
    keras,
    quiet_about_masks,
    register,
    to_numpy,
)
from .distillation import HiddenDistillation, LogitsDistillation, valid_number
from .encoders import as_encoder, as_head
from .encoders.base import one_or_all
from .layers import (
    GATES,
    SAMPLINGS,
    BinaryRandomChoice,
    Frozen,
    ModuleChoice,
    one_of,
    whole_modules,
)

__all__ = [
    "TheseusModel",
    "bert_of_theseus",
    "build_successor_backbone",
    "build_successor_model",
    "build_theseus_model",
    "distil",
    "initialize_successor",
    "load_model",
]


@register
class TheseusModel(keras.Model):
    """A functional model that trains the successor's modules and nothing else.

    What is frozen is frozen in this model alone. No `trainable` flag of a layer is changed, so
    the predecessor, the head and the successor can be trained in models of their own, compiled
    before or after this one.
    """

    def _frozen_ids(self):
        if not hasattr(self, "_frozen_weight_ids"):
            frozen, live = set(), set()
            for layer in self.layers:
                if isinstance(layer, Frozen):
                    frozen.update(map(id, layer.weights))
                elif isinstance(layer, ModuleChoice):
                    for side, ids in (("predecessor", frozen), ("successor", live)):
                        for inner in getattr(layer, f"{side}_layers"):
                            ids.update(map(id, inner.weights))
                else:
                    live.update(map(id, layer.weights))
            self._frozen_weight_ids = frozenset(frozen - live)
        return self._frozen_weight_ids

    def _without_frozen(self, weights):
        frozen = self._frozen_ids()
        return [weight for weight in weights if id(weight) not in frozen]

    def _with_frozen(self, trainable, non_trainable):
        frozen = self._frozen_ids()
        return [w for w in trainable if id(w) in frozen] + non_trainable

    @property
    def trainable_weights(self):
        return self._without_frozen(super().trainable_weights)

    @property
    def non_trainable_weights(self):
        return self._with_frozen(super().trainable_weights, super().non_trainable_weights)

    @property
    def trainable_variables(self):
        return self._without_frozen(super().trainable_variables)

    @property
    def non_trainable_variables(self):
        return self._with_frozen(super().trainable_variables, super().non_trainable_variables)


def initialize_successor(
    predecessor,
    successor,
    layers: str | Sequence[int] = "first",
    module_map: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Starts the successor from the predecessor: copies weights, layer by layer.

    Each successor layer gets the weights of one predecessor layer. The embeddings, and what comes
    after the last layer (a pooler, say), are copied too where both encoders have them and they
    fit. Nothing is copied if any of the layers do not fit.

    Args:
        predecessor: The encoder to copy from, fine-tuned or only pretrained: what
            `build_theseus_model` takes.
        successor: The encoder to copy to, of as many layers or fewer.
        layers: Which of the predecessor's n layers the successor's m start as.
            `"first"`, the first m, did best in the paper; `"last"`, the last m;
            `"every_kth"`, each k-th for k = n / m, that is layer `(i + 1) * n // m - 1` for
            layer i, 3, 7 and 11 of 12 into 3; `"module_first"`, the first layer of each module
            of `module_map`; or a list of m indices. Defaults to `"first"`.
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
    predecessor = as_encoder(predecessor)
    successor = as_encoder(successor, like=predecessor)
    sources = _sources(
        layers, module_map, predecessor.num_hidden_layers, successor.num_hidden_layers
    )
    pairs = []
    for own, theirs in enumerate(sources):
        source = predecessor.module([theirs], f"predecessor_layer_{theirs}")
        target = successor.module([own], f"successor_layer_{own}")
        advice = " A successor of another kind starts as it is: initialize=None in `compress`."
        pairs += _pairs(source, target, f"layer {theirs}", f"layer {own}", advice)
    for part in ("embedding_model", "end_model"):
        ends = [getattr(encoder, part)("end") for encoder in (predecessor, successor)]
        if None not in ends:
            with contextlib.suppress(ValueError):  # of another size: the successor's own stay
                pairs += _pairs(*ends, part, part)
    _copy(pairs)
    return sources


def build_successor_backbone(
    predecessor, num_hidden_layers: int, layers: str | Sequence[int] = "first"
):
    """Builds a successor for a KerasHub predecessor: its backbone with fewer layers.

    It has the predecessor's config and weights, those of `num_hidden_layers` of its layers and all
    others; see `initialize_successor`. So it can be called before the predecessor is fine-tuned,
    for a successor that starts from the pretrained layers, or afterwards.

    Args:
        predecessor: KerasHub backbone or `TextClassifier`.
        num_hidden_layers: Integer, the number of layers.
        layers: As in `initialize_successor`. Defaults to `"first"`.

    Returns:
        A backbone of the same class.

    Raises:
        TypeError: for other hosts, whose successors are built by hand.
        ValueError: if there are not so many layers in the predecessor.

    Example:

    >>> classifier = keras_hub.models.BertTextClassifier.from_preset("bert_base_en", num_classes=2)
    >>> successor = build_successor_backbone(classifier, 3)
    >>> theseus = build_theseus_model(classifier, successor)
    """
    encoder = as_encoder(predecessor)
    if isinstance(num_hidden_layers, bool) or not isinstance(num_hidden_layers, numbers.Integral):
        raise TypeError(f"`num_hidden_layers` must be an integer. Received: {num_hidden_layers!r}")
    n, m = encoder.num_hidden_layers, int(num_hidden_layers)
    if not 1 <= m <= n:
        raise ValueError(
            f"`num_hidden_layers` must be from 1 to {n}, the predecessor's. Received: {m}"
        )
    successor = encoder.shallower(m)
    initialize_successor(encoder, successor, layers)
    return successor


def build_theseus_model(
    predecessor,
    successor,
    classifier: keras.layers.Layer | None = None,
    replacement_rate: float = 0.5,
    execution: str = "lazy",
    embeddings: str = "predecessor",
    module_map: Sequence[Sequence[int]] | None = None,
    at_least_one: bool = False,
    predecessor_dropout: bool = True,
    hidden_loss_weight: float = 0.0,
    gate: str = "bernoulli",
    sampling: str = "batch",
    seed: int | None = None,
    name: str = "theseus",
) -> keras.Model:
    """Wires a frozen predecessor and a trainable successor into one model, module by module.

    In training each module's output is the predecessor's or the successor's, at random, a draw
    per module and batch; the task's loss is the only loss, unless `hidden_loss_weight` adds one.
    At inference the model is the successor. Compile it and `fit` it as any Keras model, then take
    the successor out with `build_successor_model`.

    The predecessor and the classifier are frozen inside this model only: their `trainable` flags
    stay as they are, and models compiled on them train as before. Build it when the predecessor
    is fitted: with `embeddings="predecessor"` its embeddings are copied now.

    Args:
        predecessor: The fine-tuned encoder: a bert4keras `Transformer`
            (`return_keras_model=False`), a KerasHub backbone or `TextClassifier`, a
            `keras.Sequential`, a list of layers, or an `Encoder`.
        successor: The encoder to train, of fewer layers. It may be of another kind: a list of
            layers or models, each from `(batch_size, sequence_length, hidden_size)` to the same,
            such as LSTMs or convolutions, gets copies of the predecessor's embedding and of what
            follows its last layer, see `StackEncoder`.
        classifier: Keras model or layer from the encoder's output, `(batch_size,
            sequence_length, hidden_size)` for BERT, to the task's output; the predecessor's own.
            Defaults to `None`, the head of a `TextClassifier`.
        replacement_rate: Float in [0, 1]. Probability that a module is the successor's in
            training. `set_replacement_rate` changes it later. Defaults to `0.5`.
        execution: `"lazy"` runs only the modules that were picked, forward and backward;
            `"dense"` runs all and picks among the outputs, as the original Keras code does. The
            law of the outputs is the same. Defaults to `"lazy"`.
        embeddings: `"predecessor"` copies the predecessor's embeddings into the successor and
            keeps them frozen, as in the paper; `"replace"` makes the embeddings a module of
            their own, chosen among both like the others. Defaults to `"predecessor"`.
        module_map: For each successor layer the list of the predecessor's layers it replaces,
            `[[0, 1, 2], [3, 4, 5]]`, in order and complete. Defaults to `None`, equal parts of
            the n layers where the successor's m divide them, and otherwise parts whose sizes
            differ by one at most: layer i replaces layers `round(i * n / m)` up to, and without,
            `round((i + 1) * n / m)`. So 12 into 5 is parts of 2, 3, 2, 3 and 2.
        at_least_one: Boolean. Whether a batch that would train nothing, since all modules are
            the predecessor's (12.5 % of them for 3 modules at rate 0.5), is drawn again. Every
            other combination then keeps its share of the rest, and at rate 0 exactly one module,
            any, is replaced. For one rate, not one per module. Defaults to `False`.
        predecessor_dropout: Boolean. Whether the predecessor's dropout is on in training, as in
            the original code. Defaults to `True`.
        hidden_loss_weight: Number of at least 0. Weight of a second loss in training, of
            distillation: the mean over the modules of the mean squared difference between the
            predecessor's output and the successor's, of the same input, at the positions that
            the mask keeps. It needs both outputs, so `execution="dense"`. Defaults to `0.0`, no
            such loss.
        gate: `"bernoulli"`, one of the two outputs; or, of both of them and so with
            `execution="dense"`, `"uniform"`, a mixture in shares that are drawn, or `"blend"`,
            in shares that are not. See `BinaryRandomChoice`. Defaults to `"bernoulli"`.
        sampling: `"batch"`, a draw per module and batch, the same on all replicas of a
            distributed model; `"replica"`, a draw per module and replica of `tf.distribute`; or
            `"example"`, a draw per module and example, with `execution="dense"`. Defaults to
            `"batch"`.
        seed: Integer for the draws. Defaults to `None`, from Python's generator.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the predecessor's inputs, not compiled.

    Raises:
        TypeError: if the encoders or the classifier are not what can be wired.
        ValueError: if the depths, shapes or options do not fit together.

    Example:

    >>> theseus = build_theseus_model(predecessor, successor, classifier, replacement_rate=0.5)
    >>> theseus.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> theseus.fit(x, y)
    >>> small = build_successor_model(theseus)

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020), section 3
    """
    one_of("execution", execution, ("lazy", "dense"))
    one_of("embeddings", embeddings, ("predecessor", "replace"))
    if valid_number("hidden_loss_weight", hidden_loss_weight) and execution == "lazy":
        raise ValueError(
            f"`hidden_loss_weight` ({hidden_loss_weight}) needs the outputs of both modules, and "
            'execution="lazy" runs one of them. Use execution="dense".'
        )
    gate_options = {
        "gate": one_of("gate", gate, GATES),
        "sampling": one_of("sampling", sampling, SAMPLINGS),
    }
    if not whole_modules(gate, sampling):
        if execution == "lazy":
            raise ValueError(
                'execution="lazy" runs one of two modules on all examples, which '
                f"gate={gate!r} with sampling={sampling!r} does not decide for: it needs the "
                'outputs of both. Use execution="dense".'
            )
        if at_least_one:
            raise ValueError(
                "`at_least_one` draws again where no module is the successor's in a batch, which "
                'needs gate="bernoulli" and sampling="batch" or "replica". Received: '
                f"gate={gate!r}, sampling={sampling!r}"
            )
    predecessor = as_encoder(predecessor)
    classifier = as_head(classifier, predecessor)
    successor = as_encoder(successor, like=predecessor)
    modules = _module_map(module_map, predecessor.num_hidden_layers, successor.num_hidden_layers)
    theirs = predecessor.embedding_model("predecessor_embeddings")
    own = successor.embedding_model("successor_embeddings")
    if (own is None) != (theirs is None):
        raise ValueError(
            "Both encoders need an embedding, or neither. Received: "
            f"{'none' if theirs is None else 'one'} in the predecessor, "
            f"{'none' if own is None else 'one'} in the successor. A plain list of layers from "
            "hidden states to hidden states is given a copy of the predecessor's."
        )
    if own is not None and len(own.inputs) != len(theirs.inputs):
        names = [[tensor.name for tensor in model.inputs] for model in (theirs, own)]
        raise ValueError(
            "Both encoders must take the same inputs. Received: "
            f"{names[0]} in the predecessor, {names[1]} in the successor."
        )
    contexts = [len(encoder._state_before(0)) - 1 for encoder in (predecessor, successor)]
    if contexts[0] != contexts[1]:
        raise ValueError(
            "The layers of both encoders must take the same beside the hidden states: one with an "
            'attention mask made of its inputs (application="lm", "unilm") does not go with one '
            f"without. Received: {contexts[0]} more tensors in the predecessor, {contexts[1]} in "
            "the successor."
        )
    count = len(modules) + (own is not None and embeddings == "replace")
    seeds = _spawn(seed, count)
    if own is not None and embeddings == "replace" and contexts[1]:
        made = keras.Model(own.inputs, _listed(own.outputs)[1:])
        if made.weights:
            raise ValueError(
                'embeddings="replace" would replace the hidden states alone, and the layers of '
                f"{successor.name!r} take more that its embeddings make with their weights. Use "
                'embeddings="predecessor".'
            )

    def options(index, name):
        return {
            "replacement_rate": replacement_rate,
            "seed": seeds[index],
            "modules_left": count - index if at_least_one else None,
            # Who comes above wants to know; above the last comes nobody.
            "return_replaced": (execution == "lazy" or at_least_one) and index < count - 1,
            "name": name,
        }

    drawn = 0
    replaced = False  # was a module below replaced in this batch? Below the first there is none.
    inputs = predecessor.inputs
    x, context = inputs[0], []
    if own is not None and embeddings == "replace":
        theirs = Frozen(theirs, predecessor_dropout, name="frozen_predecessor_embeddings")
        x, *context = _listed(theirs(one_or_all(inputs)))
        y, *_ = _listed(own(one_or_all(inputs)))
        # Both are looked up in either execution: a look-up costs little.
        choice = BinaryRandomChoice(**gate_options, **options(0, "embeddings"))
        x = choice([x, y], replaced_below=replaced)
        x, replaced = x if choice.return_replaced else (x, None)
        drawn = 1
    elif own is not None:
        advice = ' Use embeddings="replace" to train the successor\'s own.'
        _copy(_pairs(theirs, own, "embeddings", "embeddings", advice))
        x, *context = _listed(Frozen(own, name="frozen_successor_embeddings")(one_or_all(inputs)))

    frozen_ids, own_ids = set(), set()
    for index, layers in enumerate(modules):
        theirs = predecessor.module(layers, f"predecessor_module_{index}")
        ours = successor.module([index], f"successor_module_{index}")
        frozen_ids.update(map(id, theirs.weights))
        own_ids.update(map(id, ours.weights))
        if frozen_ids & own_ids:
            raise ValueError(
                "The successor has layers that the predecessor has too, and training it would "
                "change the predecessor. Build it with layers of its own (bert4keras: without "
                "`layers=`)."
            )
        arguments = options(drawn, f"module_{index}")
        state = one_or_all([x, *context])
        if execution == "lazy":
            choice = ModuleChoice(
                theirs,
                ours,
                predecessor_dropout=predecessor_dropout,
                sampling=sampling,
                **arguments,
            )
            x = choice(state, replaced_below=replaced)
        else:
            theirs = Frozen(theirs, predecessor_dropout, name=f"frozen_predecessor_module_{index}")
            choice = BinaryRandomChoice(**gate_options, **arguments)
            pair = [theirs(state), ours(state)]
            if hidden_loss_weight:
                term = HiddenDistillation(
                    hidden_loss_weight / len(modules), name=f"hidden_distillation_{index}"
                )
                pair[1] = term(pair)
            x = choice(pair, replaced_below=replaced)
        x, replaced = x if choice.return_replaced else (x, None)
        drawn += 1

    source = predecessor.final_model("predecessor_final")
    final = successor.final_model("successor_final")
    if (source is None) != (final is None):
        one, other = ("predecessor", "successor")[:: 1 if final is None else -1]
        raise ValueError(
            f"The {one}'s last layers make something of the hidden states that the {other}'s do "
            "not (a pooler, say). Build both with the same options."
        )
    if final is not None:
        _copy(_pairs(source, final, "last layers", "last layers"))
        x = Frozen(final, name="frozen_successor_final")(x)
    x = Frozen(classifier, name="frozen_classifier")(x)
    theseus = TheseusModel(predecessor.input_structure, x, name=name)
    # Past Keras, which would track and save them as parts of the model.
    object.__setattr__(theseus, "_theseus_parts", (successor, classifier))
    return theseus


def build_successor_model(
    theseus_model_or_successor, classifier: keras.layers.Layer | None = None, name="successor"
) -> keras.Model:
    """Takes the successor out: a standalone model with none of the predecessor's weights.

    It shares its weights with the Theseus model it was trained in and predicts exactly as that
    does at inference. All of it can be trained on, embeddings and head included; the head is the
    same object as in the predecessor's model, so training it changes it there too.

    Args:
        theseus_model_or_successor: A model made by `build_theseus_model` in this process, or the
            successor that was given to it.
        classifier: The head. Defaults to the Theseus model's.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the successor's inputs, not compiled. Where the head is that of a
        KerasHub `TextClassifier`, another `TextClassifier` of the same class, with the same
        preprocessor and a head of its own that starts as that one, compiled as KerasHub does.

    Raises:
        TypeError: if there is no classifier to use.
        ValueError: for a Theseus model that was loaded from a file, which does not know the
            host's objects: pass the successor.

    Example:

    >>> small = build_successor_model(theseus)
    >>> small.compile("adam", "sparse_categorical_crossentropy")
    """
    source = theseus_model_or_successor
    if isinstance(source, TheseusModel):
        encoder, own_classifier = getattr(source, "_theseus_parts", (None, None))
        if encoder is None:
            raise ValueError(
                f"The model {source.name!r} was loaded or cloned, and does not know the successor "
                "it was built from. Pass the successor itself, with its weights, and the "
                "classifier: build_successor_model(successor, classifier)."
            )
        classifier = classifier or own_classifier
    else:
        encoder = as_encoder(source)
    classifier = as_head(classifier, encoder)
    return encoder.finished(encoder.model(classifier, name), classifier)


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
            f"({keras.__name__} {keras.__version__}). Received: {model!r}"
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


def load_model(path: str | os.PathLike):
    """Loads a model that Keras saved, in a process that has imported nothing else.

    `keras.models.load_model` knows a class of this package only once its module is imported. For
    a model with layers of bert4keras, `import bert_of_theseus.bert4keras` first. No code from the
    file is run: a Lambda layer whose function is code is refused, or in a SavedModel is what
    TensorFlow's graph says of it, and a `.keras` file may name nothing but Keras' own classes and
    those registered in this process (under Keras 3, what its safe mode allows).

    Args:
        path: what `model.save` wrote: a `.keras` file, and whatever else this Keras loads.

    Returns:
        The Keras model, not compiled.

    Raises:
        FileNotFoundError: there is no such `.keras` file.
        ValueError: the file is truncated or corrupt, or asks for code.

    Example:

        import bert_of_theseus

        successor = bert_of_theseus.load_model("successor.keras")
    """
    from . import heads  # noqa: F401  registers its layer
    from .checkpoints.head import load_keras_file

    with warnings.catch_warnings():
        # While it is put together, there is no model yet to be quiet about.
        functional = r"Layer '.*' \(of type (Functional|Sequential)\).*destroy the mask information"
        warnings.filterwarnings("ignore", message=functional)
        # Keras 2, of weights that the file's own replace.
        warnings.filterwarnings("ignore", message=r"The initializer \w+ is unseeded")
        model = load_keras_file(Path(path), check_names=SAFE_MODE_IMPORTS)
    return quiet_about_masks(model)


def input_structure(model):
    """The inputs of `model` as it takes them: a tensor, a list or a dict."""
    # Keras 3 gives a sequential model's `input` of the model that it was put in.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _on_inputs_of(model, teacher):
    """`teacher`, as a function of a list of tensors like `model.inputs`."""
    theirs = getattr(teacher, "inputs", None) if isinstance(teacher, keras.Model) else None
    if not theirs:  # a layer, which says what it takes when it is called
        return teacher
    if len(theirs) != len(model.inputs):
        raise ValueError(
            f"The teacher takes {len(theirs)} inputs, the student {len(model.inputs)}."
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


def bert_of_theseus(predecessor, successor, classifier) -> keras.Model:
    """The original Keras script's function, with its wiring: dense, embeddings replaced, rate 0.5.

    Unlike there, models that were compiled before this call train as they should.

    Args:
        predecessor: bert4keras `Transformer`, or what `build_theseus_model` takes.
        successor: Likewise, of fewer layers.
        classifier: Keras model from the encoder's output to the task's.

    Returns:
        A `keras.Model`, not compiled.
    """
    return build_theseus_model(
        predecessor, successor, classifier, execution="dense", embeddings="replace"
    )


def _listed(tensors):
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


def _spawn(seed, count):
    if seed is None:
        return [None] * count
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0, or None. Received: {seed!r}")
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count)]


def _module_map(module_map, predecessor_layers, successor_layers):
    """`module_map`, checked; by default each successor layer takes an equal part, or nearly so."""
    n, m = predecessor_layers, successor_layers
    if m > n:
        raise ValueError(
            f"The successor has more layers ({m}) than the predecessor ({n}); it needs at most "
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


def _sources(layers, module_map, predecessor_layers, successor_layers):
    """For each successor layer the index of the predecessor's layer that it starts as."""
    n, m = predecessor_layers, successor_layers
    modules = _module_map(module_map, n, m)
    if isinstance(layers, str):
        one_of("layers", layers, ("first", "last", "every_kth", "module_first"))
        return {
            "first": list(range(m)),
            "last": list(range(n - m, n)),
            "every_kth": [(i + 1) * n // m - 1 for i in range(m)],
            "module_first": [module[0] for module in modules],
        }[layers]
    indices = list(layers)
    if len(indices) != m or not all(
        isinstance(i, numbers.Integral) and not isinstance(i, bool) and 0 <= i < n for i in indices
    ):
        raise ValueError(
            f"`layers` must name {m} of the predecessor's layers 0 to {n - 1}, one per successor "
            f"layer. Received: {layers!r}"
        )
    return [int(i) for i in indices]


def _weights(model):
    # Keras 2 orders the weights of layers in layers by their flags: so all have the same ones.
    with frozen([model]):
        return list(model.weights)


def _pairs(source, target, theirs, own, advice=""):
    """The weights of `source` beside those of `target`; an error that names both if not alike."""
    sides = [_weights(source), _weights(target)]
    if [tuple(w.shape) for w in sides[0]] != [tuple(w.shape) for w in sides[1]]:
        shapes = [", ".join(f"{w.name}{tuple(w.shape)}" for w in side) for side in sides]
        raise ValueError(
            f"The predecessor's {theirs} and the successor's {own} do not fit each other: their "
            "weights differ in number or shape. "
            f"Predecessor: {shapes[0]}. Successor: {shapes[1]}.{advice}"
        )
    return list(zip(*sides))


def _copy(pairs):
    for source, target in pairs:
        if source is not target:
            # By way of a NumPy array, or both would hold one JAX buffer, which a training step
            # of either gives away.
            target.assign(to_numpy(source))
