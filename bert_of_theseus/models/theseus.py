"""The Theseus model: predecessor and successor wired into one, module by module."""

import warnings
from collections.abc import Sequence

from ..backend import keras, register
from ..distillation import HiddenDistillation
from ..encoders.base import as_list, one_or_all
from ..encoders.initialize import copy_weights
from ..layers import ModuleChoice
from ..wrappers import Frozen
from .chain import ChainedModuleChoice, ChainedRandomChoice
from .plan import make_plan


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
    """Builds the model that trains the successor: predecessor and successor, module by module.

    In training each module's output is the predecessor's or the successor's, at random, with a
    draw per module and batch. The task's loss is the only loss. At inference the model is the
    successor. Compile and `fit` it as any Keras model, then extract the successor with
    `build_successor_model`.

    The predecessor and the classifier are frozen inside this model only: their `trainable` flags
    stay as they are, and models compiled on them train as before. Build it after the predecessor
    is fine-tuned: with `embeddings="predecessor"` its embeddings are copied now.

    Args:
        predecessor: The fine-tuned encoder: a bert4keras `Transformer`
            (`return_keras_model=False`), a KerasHub backbone or `TextClassifier`, a
            `keras.Sequential`, a list of layers, or an `Encoder`.
        successor: The encoder to train, with fewer layers. A list of layers from `(batch_size,
            sequence_length, hidden_size)` to the same, LSTMs say, gets copies of the
            predecessor's embedding and end, see `StackEncoder`.
        classifier: Keras model or layer from the encoder's output to the task's output. Defaults
            to `None`, the head of a `TextClassifier`.
        replacement_rate: Float in [0, 1]. Probability that a module is the successor's in
            training; `set_replacement_rate` changes it. Defaults to `0.5`.
        execution: `"lazy"` runs only the chosen modules, forward and backward; `"dense"` runs all
            and chooses among the outputs, as the original Keras code. Both follow the same law.
            Defaults to `"lazy"`.
        embeddings: `"predecessor"` copies the predecessor's embeddings into the successor and
            freezes them, as in the paper; `"replace"` makes the embeddings a module that is
            replaced like the others. Defaults to `"predecessor"`.
        module_map: For each successor layer the list of predecessor layers that it replaces, in
            order and complete: `[[0, 1, 2], [3, 4, 5]]`. Defaults to `None`, parts whose sizes
            differ by at most one; 12 into 5 is 2, 3, 2, 3 and 2 layers.
        at_least_one: Boolean. Whether a batch in which no module is the successor's, and which
            would train nothing (12.5 % for 3 modules at rate 0.5), is drawn again. The other
            combinations keep their proportions; at rate 0 exactly one module is replaced. Needs
            one rate for all modules. Defaults to `False`.
        predecessor_dropout: Boolean. Whether the predecessor's dropout is active in training, as
            in the original code. Defaults to `True`.
        hidden_loss_weight: Number of at least 0, a factor of an additional loss: the squared
            difference of both outputs of each module, see `HiddenDistillation`. Needs
            `execution="dense"`. Defaults to `0.0`, no such loss.
        gate: `"bernoulli"`; or, with `execution="dense"`, `"uniform"` or `"blend"`, mixtures of
            both outputs, see `BinaryRandomChoice`. Defaults to `"bernoulli"`.
        sampling: `"batch"`, `"replica"`, or, with `execution="dense"`, `"example"`: what a draw
            is for, see `BinaryRandomChoice`. Defaults to `"batch"`.
        seed: Integer of at least 0, for the draws. Defaults to `None`, from Python's generator.
        name: String. Name of the model.

    Returns:
        A `keras.Model` on the predecessor's inputs, not compiled.

    Raises:
        TypeError: if the encoders or the classifier are of another type.
        ValueError: if the depths, shapes or options do not fit together.

    Warns:
        UserWarning: if the head of a KerasHub text classifier was never trained.

    Example:

    >>> theseus = build_theseus_model(predecessor, successor, classifier)
    >>> theseus.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> theseus.fit(x, y)
    >>> small = build_successor_model(theseus)

    References:
        - [BERT-of-Theseus](https://arxiv.org/abs/2002.02925) (Xu et al., 2020), section 3
    """
    plan = make_plan(
        predecessor,
        successor,
        classifier,
        replacement_rate=replacement_rate,
        execution=execution,
        embeddings=embeddings,
        module_map=module_map,
        at_least_one=at_least_one,
        hidden_loss_weight=hidden_loss_weight,
        gate=gate,
        sampling=sampling,
        seed=seed,
    )
    if getattr(plan.classifier, "is_new", False):
        warnings.warn(
            "The predecessor's head was never trained. KerasHub's `from_preset` gives each Hugging "
            "Face model a new head, a fine-tuned one too: train the predecessor first, or load it "
            "with bert_of_theseus.checkpoints.load_pretrained, which reads its head.",
            stacklevel=2,
        )
    draws = iter(plan.draws)
    replaced = False  # whether a module below was replaced; below the first there is none

    def choose(choice, outputs):
        nonlocal replaced
        outputs = choice(outputs, replaced_below=replaced)
        x, replaced = outputs if choice.return_replaced else (outputs, None)
        return x

    # Embeddings: the successor's, frozen, or a module of their own.
    inputs = one_or_all(plan.predecessor.inputs)
    padding_mask = plan.predecessor.padding_mask(plan.predecessor.inputs)
    x, context = plan.predecessor.inputs[0], []
    if plan.embeddings is not None:
        old, new = plan.embeddings
        if embeddings == "predecessor":
            x, *context = as_list(Frozen(new, name="frozen_successor_embeddings")(inputs))
        else:
            # Both are looked up in either execution: a look-up costs little.
            old = Frozen(old, predecessor_dropout, name="frozen_predecessor_embeddings")
            x, *context = as_list(old(inputs))
            pair = [x, as_list(new(inputs))[0]]
            x = choose(ChainedRandomChoice(gate=gate, sampling=sampling, **next(draws)), pair)

    # Modules: a choice between the predecessor's, frozen, and the successor's.
    for index, (old, new) in enumerate(plan.modules):
        state = one_or_all([x, *context])
        if execution == "lazy":
            options = {"predecessor_dropout": predecessor_dropout, "sampling": sampling}
            x = choose(ChainedModuleChoice(old, new, **options, **next(draws)), state)
        else:
            old = Frozen(old, predecessor_dropout, name=f"frozen_predecessor_module_{index}")
            pair = [old(state), new(state)]
            if hidden_loss_weight:
                weight = hidden_loss_weight / len(plan.modules)
                term = HiddenDistillation(weight, name=f"hidden_distillation_{index}")
                pair[1] = term(pair, padding_mask=padding_mask)
            x = choose(ChainedRandomChoice(gate=gate, sampling=sampling, **next(draws)), pair)

    # The end of the encoder, then the head, both frozen.
    if plan.final is not None:
        x = Frozen(plan.final, name="frozen_successor_final")(x)
    x = Frozen(plan.classifier, name="frozen_classifier")(x)
    theseus = TheseusModel(plan.predecessor.input_structure, x, name=name)
    # Hidden from Keras, which would track and save them as parts of the model.
    object.__setattr__(theseus, "_theseus_parts", (plan.successor, plan.classifier))
    copy_weights(plan.copied)
    return theseus


def bert_of_theseus(predecessor, successor, classifier) -> keras.Model:
    """Builds the model of the original Keras script: dense, embeddings replaced, rate 0.5.

    Unlike there, models that were compiled before this call can be trained further.
    """
    return build_theseus_model(
        predecessor, successor, classifier, execution="dense", embeddings="replace"
    )


@register
class TheseusModel(keras.Model):
    """A functional model that trains the successor's modules and nothing else.

    The other weights are frozen in this model alone. No `trainable` flag of a layer is changed, so
    the predecessor, the head and the successor can be trained in other models, compiled before or
    after this one.

    TensorFlow traces its training step once, but twice if `compile` is given metrics by name, which
    Keras makes at the first batch.
    """

    def _frozen_ids(self):
        if not hasattr(self, "_frozen_weight_ids"):
            frozen, trained = set(), set()
            for layer in self.layers:
                if isinstance(layer, ModuleChoice):
                    frozen.update(id(w) for old in layer.predecessor_layers for w in old.weights)
                    trained.update(id(w) for new in layer.successor_layers for w in new.weights)
                else:
                    ids = frozen if isinstance(layer, Frozen) else trained
                    ids.update(map(id, layer.weights))
            self._frozen_weight_ids = frozenset(frozen - trained)
        return self._frozen_weight_ids

    def _trained(self, weights):
        return [weight for weight in weights if id(weight) not in self._frozen_ids()]

    def _frozen(self, weights):
        return [weight for weight in weights if id(weight) in self._frozen_ids()]

    def make_train_function(self, force=False):
        # TensorFlow traces a step twice if the first trace creates variables. Keras 2's optimizers
        # do not say whether they are built, but a second call does nothing; its legacy ones have
        # no `build`.
        optimizer = self.optimizer
        if hasattr(optimizer, "build") and not getattr(optimizer, "built", False):
            optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def zero_grad(self, set_to_none=True):
        # Keras calls it in each step on PyTorch, whose own looks parameters up by their paths. A
        # layer of the predecessor and one of the successor, or of its teacher, may share a path:
        # PyTorch's would leave the gradient of one of them, and the next step would add to it.
        for weight in self.trainable_weights:
            weight.value.grad = None

    @property
    def trainable_weights(self):
        return self._trained(super().trainable_weights)

    @property
    def non_trainable_weights(self):
        return self._frozen(super().trainable_weights) + super().non_trainable_weights

    @property
    def trainable_variables(self):
        return self._trained(super().trainable_variables)

    @property
    def non_trainable_variables(self):
        return self._frozen(super().trainable_variables) + super().non_trainable_variables
