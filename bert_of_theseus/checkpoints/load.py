"""From a folder to a model: which kind of checkpoint it is, and a bert4keras BERT from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from pathlib import Path

import numpy as np

from .base import (
    ACTIVATIONS,
    VOCAB_DIGEST,
    Checkpoint,
    missing_file,
    read_json,
)
from .google import GoogleCheckpoint
from .huggingface import HuggingFaceCheckpoint

_KINDS = (GoogleCheckpoint, HuggingFaceCheckpoint)
_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"


def find_checkpoint(directory: str | os.PathLike) -> Checkpoint:
    """Opens the BERT checkpoint in a folder, of whichever kind it is.

    Reads the config and the table of contents, no values.

    Args:
        directory: a folder with `bert_config.json` and one `*.ckpt*` (Google), or with
            `config.json` and `model.safetensors`, whole or in shards (Hugging Face).

    Returns:
        A `Checkpoint`: `config`, `vocab_path`, `names`, `shape(name)`, `dtype(name)` and
        `tensor(name)`.

    Raises:
        FileNotFoundError: the folder or one of the files is missing; says what is there.
        ValueError: a file cannot be read, or describes something else than a BERT encoder.
    """
    path = Path(directory)
    kinds = [kind for kind in _KINDS if path.is_dir() and kind.find_tensors(path)]
    if len(kinds) > 1:
        raise ValueError(
            f"{str(path)!r} holds a {' and a '.join(kind.format for kind in kinds)}; keep one."
        )
    if not kinds:
        raise missing_file(
            path,
            "bert_config.json with a *.ckpt*.index and its .data files (Google), or config.json "
            "with model.safetensors (Hugging Face)",
        )
    return kinds[0](path)


def check_vocab(vocab_path: str | os.PathLike, config: dict, stacklevel: int = 1) -> int:
    """Checks that a vocabulary fits a model's embeddings.

    Every token needs a row, so more tokens than rows is an error. Fewer is harmless (some models
    pad their embeddings to a round number), and so a warning. A vocabulary that we wrote has its
    checksum beside it, in tokenizer_config.json, and must match it.

    Args:
        vocab_path: `vocab.txt`, one token a line.
        config: a dict with `vocab_size`, as `Checkpoint.config`.
        stacklevel: whose line a warning names, as in `warnings.warn`; default the caller's.

    Returns:
        The number of tokens.

    Raises:
        ValueError: too many tokens, none, a token twice (bert4keras would then shift the ids of
            all later ones), `[PAD]` at another place than the first (the model masks id 0), or
            the file is not the one that was written.
    """
    path, rows = str(vocab_path), config["vocab_size"]
    settings = Path(vocab_path).with_name("tokenizer_config.json")
    digest = read_json(settings).get(VOCAB_DIGEST) if settings.is_file() else None
    if digest not in (None, hashlib.sha256(Path(vocab_path).read_bytes()).hexdigest()):
        raise ValueError(
            f"{path!r} does not match its checksum in {settings.name}: it is truncated, corrupt, "
            f"or another model's. Remove {VOCAB_DIGEST} there if you changed it on purpose."
        )
    try:
        with open(vocab_path, encoding="utf-8") as lines:
            # As bert4keras reads it: first word of the line, by which no two lines may agree.
            tokens = [(line.split() or [""])[0] for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 text: {error}.") from error
    while tokens and not tokens[-1]:
        tokens.pop()
    if not tokens:
        raise ValueError(f"{path!r} is empty.")

    seen = {}
    for number, token in enumerate(tokens, start=1):
        if seen.setdefault(token, number) != number:
            raise ValueError(
                f"{path!r} holds {token!r} twice, in lines {seen[token]} and {number}."
            )
    if seen.get("[PAD]", 1) != 1:
        raise ValueError(f"{path!r} should have '[PAD]' in line 1, not in line {seen['[PAD]']}.")
    if len(tokens) > rows:
        raise ValueError(
            f"{path!r} holds {len(tokens)} tokens, but the model's embeddings have {rows} rows "
            "(vocab_size); they do not belong together."
        )
    if len(tokens) < rows:
        warnings.warn(
            f"{path!r} holds {len(tokens)} tokens and the model's embeddings have {rows} rows; "
            "the rest is not used.",
            stacklevel=stacklevel + 1,
        )
    return len(tokens)


def load_bert(
    directory: str | os.PathLike,
    *,
    num_hidden_layers: int | None = None,
    prefix: str = "",
    with_pool: bool = False,
    **kwargs,
):
    """Builds a bert4keras BERT and loads a checkpoint's weights.

    Read: the embeddings, the first `num_hidden_layers` layers, the pooler with `with_pool=True`,
    and BERT's own pretraining heads with `with_mlm=True` or `with_nsp=True`. Not read, on purpose:
    deeper layers, heads of other tasks, an optimizer's variables. Anything else in the encoder
    that is missing, misshapen or left over is an error.

    Args:
        directory: a folder with a Google checkpoint or a Hugging Face directory.
        num_hidden_layers: take only the first so many layers; default all.
        prefix: put before the name of each layer, so that two models can live in one.
        with_pool: whether the output is the pooled `[CLS]`, `(batch_size, hidden_size)`, instead of
            the hidden states, `(batch_size, sequence_length, hidden_size)`.
        **kwargs: anything else that bert4keras' `build_transformer_model` takes, such as
            `dropout_rate`, `sequence_length`, `keep_tokens` or `application`.

    Returns:
        A bert4keras `Transformer`; its `.model` is the Keras model.

    Raises:
        FileNotFoundError: the folder or one of the files is missing; says what is there.
        ValueError: the checkpoint does not fit the model or cannot be read. All tensors at fault
            are named at once.
    """
    model = kwargs.pop("model", "bert")
    if model not in ("bert", "roberta"):
        raise ValueError(f"`model` should be 'bert' or 'roberta'. Received: {model!r}.")
    checkpoint = find_checkpoint(directory)
    depth = checkpoint.config["num_hidden_layers"]
    if num_hidden_layers is None:
        num_hidden_layers = depth
    elif not isinstance(num_hidden_layers, int) or isinstance(num_hidden_layers, bool):
        raise TypeError(f"`num_hidden_layers` should be an int. Received: {num_hidden_layers!r}.")
    if not 1 <= num_hidden_layers <= depth:
        raise ValueError(
            f"`num_hidden_layers` should be from 1 to {depth}, the layers of the checkpoint in "
            f"{str(directory)!r}. Received: {num_hidden_layers}."
        )
    options = {**checkpoint.config, **kwargs}
    options["hidden_act"] = _activation(options["hidden_act"])
    options.update(
        num_hidden_layers=num_hidden_layers, prefix=prefix, with_pool=with_pool, model=model
    )
    build_transformer_model = bert4keras_models().build_transformer_model
    with shared_initializers_allowed():  # what they make is replaced below
        transformer = build_transformer_model(return_keras_model=False, **options)
    _load(transformer, checkpoint, options)
    return transformer


def load_weights(transformer, directory: str | os.PathLike) -> None:
    """Loads a checkpoint's weights into a bert4keras BERT, all of them or none.

    What is read is what the model has: see `load_bert`. Frozen layers are loaded too. LayerNorm's
    epsilon, which bert4keras fixes at 1e-12, is set to the checkpoint's.

    Args:
        transformer: what `build_transformer_model(..., return_keras_model=False)` returns.
        directory: a folder with a Google checkpoint or a Hugging Face directory.

    Raises:
        TypeError: `transformer` is no bert4keras `Transformer`.
        FileNotFoundError: the folder or one of the files is missing; says what is there.
        ValueError: the checkpoint does not fit the model or cannot be read. All tensors at fault
            are named at once, and the model is as it was.
    """
    checkpoint = find_checkpoint(directory)
    _load(transformer, checkpoint, checkpoint.config)


def load_pretrained(directory: str | os.PathLike, *, prefix: str = "", **kwargs):
    """Loads a bert4keras BERT with its head: what `save_pretrained` or `save_checkpoint` wrote.

    Likewise what `transformers` saved of a `BertForSequenceClassification` or a
    `BertForTokenClassification`, and what Google's `run_classifier.py` did. No code from the
    folder is run: a head.keras may name classes of Keras and those registered in this process.

    Args:
        directory: a folder with a Hugging Face directory or a Google checkpoint.
        prefix: put before the name of each of the encoder's layers.
        **kwargs: as for `load_bert`.

    Returns:
        `(transformer, classifier, labels)`: a bert4keras `Transformer`, a Keras model on its
        output or `None`, and the classes' names or `None`.

    Raises:
        FileNotFoundError: the folder or one of the files is missing; says what is there.
        ValueError: the checkpoint, its head or its vocabulary cannot be read, or they do not fit
            together.

    Example:

        transformer, classifier, labels = load_pretrained("successor")
        model = keras.Model(transformer.inputs, classifier(transformer.output))
    """
    bert4keras_models()  # before Keras
    from .head import load_head

    checkpoint = find_checkpoint(directory)
    classifier, labels = load_head(checkpoint)
    if classifier is not None:
        kwargs["with_pool"] = len(classifier.input_shape) == 2
    if (checkpoint.directory / "vocab.txt").is_file():
        check_vocab(checkpoint.vocab_path, checkpoint.config, stacklevel=2)
    return load_bert(directory, prefix=prefix, **kwargs), classifier, labels


def _activation(hidden_act):
    """The name that bert4keras knows an activation by; anything but a name passes through."""
    return ACTIVATIONS.get(hidden_act, hidden_act) if isinstance(hidden_act, str) else hidden_act


def bert4keras_models():
    """bert4keras' models, once the set-up that they need on today's TensorFlow is done."""
    import bert_of_theseus.bert4keras  # noqa: F401, I001  must come first
    from bert4keras import backend, models

    # bert4keras registers one of its two under "gelu" and gives the other no name.
    custom_objects = backend.keras.utils.get_custom_objects()
    custom_objects.setdefault("gelu_tanh", backend.gelu_tanh)
    return models


@contextlib.contextmanager
def shared_initializers_allowed():
    """Silences Keras 2 about bert4keras, whose layers use one initializer for several weights.

    These then start with the same values, so it is for models that get other ones.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The initializer TruncatedNormal is unseeded")
        yield


def set_layer_norm_epsilon(transformer, epsilon: float) -> None:
    """Sets the epsilon of all LayerNorms, which bert4keras fixes at 1e-12."""
    layer_norm = bert4keras_models().LayerNormalization
    for layer in transformer.layers.values():
        if isinstance(layer, layer_norm):
            layer.epsilon = epsilon


def _load(transformer, checkpoint: Checkpoint, options: dict) -> None:
    models = bert4keras_models()
    check_bert(transformer, models, "loaded into")
    for option in ("ignore_invalid_weights", "autoresize_weights"):
        if getattr(transformer, option):
            raise ValueError(
                f"`{option}` is not supported: weights are loaded whole, or not at all."
            )
    targets = weights_by_name(transformer)
    problems = _problems(transformer, checkpoint, options, targets)
    if problems:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} does not fit the model "
            f"(nothing was loaded):\n- " + "\n- ".join(problems)
        )
    # All values before the first assignment: a damaged file may show only now.
    values = {name: checkpoint.tensor(name) for name in targets}
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} holds NaN or infinity (nothing "
            f"was loaded): {', '.join(map(checkpoint.stored_name, broken))}."
        )
    models.K.batch_set_value(
        # bert4keras' own hook picks the rows of `keep_tokens` and turns the next-sentence kernel.
        [(weight, transformer.load_variable(values, name)) for name, weight in targets.items()]
    )
    set_layer_norm_epsilon(transformer, checkpoint.config["layer_norm_eps"])
    # So that a saved model can say what became of the rest. Deeper layers are meant to go.
    known = set(checkpoint.names)
    transformer.left_out = [
        name
        for name in checkpoint.names
        if name.startswith(("bert/pooler/", "cls/", "classifier/"))
        and name not in targets
        and name.rpartition("/")[0] not in known
    ]


def check_bert(transformer, models, verb: str) -> None:
    """Refuses what is no bert4keras BERT of the plain kind."""
    if not isinstance(transformer, models.Transformer):
        raise TypeError(
            "`transformer` should be a bert4keras Transformer, from "
            "build_transformer_model(..., return_keras_model=False). Received: "
            f"{type(transformer).__name__}."
        )
    # ALBERT, NEZHA, ELECTRA and others are subclasses of BERT with parts of their own.
    kind = type(transformer)
    own_parts = ("apply_embeddings", "apply_main_layers", "variable_mapping")
    if any(getattr(kind, part) is not getattr(models.BERT, part) for part in own_parts):
        raise ValueError(
            f"bert4keras' BERT can be {verb}, and no other kind. Received: {kind.__name__}."
        )


def weights_by_name(transformer) -> dict:
    """The model's weight for each canonical tensor name."""
    targets = {}
    for key, names in transformer.variable_mapping().items():
        layer = transformer.layers.get(transformer.prefixed(key))
        if layer is not None:
            weights = _weights(layer)
            # A conditional LayerNorm has further weights, which start at zero: no effect.
            if len(weights) < len(names) or not (
                len(weights) == len(names) or getattr(layer, "conditional", False)
            ):
                raise ValueError(
                    f"Layer {layer.name!r} should have {len(names)} weights ({', '.join(names)}). "
                    f"It has {len(weights)}."
                )
            targets.update(zip(names, weights, strict=False))
    return targets


def _weights(layer) -> list:
    """A layer's weights in the order of `variable_mapping()`, frozen or not."""
    # `layer.weights` puts trainable ones first, so a frozen `q_dense` would move to the end.
    parts = ("q_dense", "k_dense", "v_dense", "o_dense")
    if hasattr(layer, "i0_dense"):
        parts = ("i0_dense", "o_dense")
    layers = [getattr(layer, part) for part in parts if hasattr(layer, part)] or [layer]
    return [weight for part in layers for weight in part.weights]


def _problems(transformer, checkpoint: Checkpoint, options: dict, targets: dict) -> list[str]:
    """Everything that keeps a checkpoint from fitting a model, from names and shapes alone."""
    config, problems = checkpoint.config, []
    depth, heads = transformer.num_hidden_layers, transformer.num_attention_heads
    if depth > config["num_hidden_layers"]:
        problems.append(
            f"the model has {depth} layers, the checkpoint {config['num_hidden_layers']}"
        )
    if heads != config["num_attention_heads"]:
        problems.append(
            f"the model has {heads} attention heads, the checkpoint {config['num_attention_heads']}"
        )
    wanted, act = options["hidden_act"], _activation(transformer.hidden_act)
    if isinstance(act, str) and act != wanted:
        problems.append(f"the model's hidden_act is {act!r}, the checkpoint's {wanted!r}")

    known = set(checkpoint.names)
    missing = [name for name in targets if name not in known]
    problems += [f"missing: {checkpoint.stored_name(name)}" for name in missing]
    for name, weight in targets.items():
        if name in known:
            problem = _misfit(transformer, checkpoint, name, tuple(weight.shape))
            if problem:
                problems.append(f"{checkpoint.stored_name(name)}: {problem}")
    for name in checkpoint.names:
        if name not in targets and not _is_left_out(name, known, transformer, config):
            problems.append(f"not read: {checkpoint.stored_name(name)}")
    outside = [name for name in checkpoint.names if not name.startswith("bert/")]
    if missing and outside:
        stored = ", ".join(checkpoint.stored_name(name) for name in outside)
        problems.append(f"taken for heads, since they are outside the encoder: {stored}")
    return problems


def _misfit(transformer, checkpoint: Checkpoint, name: str, shape: tuple) -> str | None:
    """What is wrong with one stored tensor as the value of a weight of the given shape."""
    found, dtype = checkpoint.shape(name), checkpoint.dtype(name)
    if dtype not in ("float64", "float32", "float16", "bfloat16"):
        return f"stored as {dtype}, expected a floating-point type"
    if name in (_WORD_EMBEDDINGS, "cls/predictions/output_bias"):
        # bert4keras appends a row for each of `compound_tokens` to the rows in `keep_tokens`.
        if transformer.keep_tokens is not None and len(found) == len(shape):
            last = max(transformer.keep_tokens)
            if found[0] <= last:
                return f"shape {found}, but keep_tokens asks for row {last}"
            shape = (found[0], *shape[1:])
        else:
            shape = (shape[0] - len(transformer.compound_tokens or ()), *shape[1:])
    if name == "cls/seq_relationship/output_weights":
        shape = shape[::-1]  # the one kernel that both kinds store turned
    if found != shape:
        return f"shape {found}, expected {shape}" + (
            ", as (input_size, output_size)" if name.endswith("/kernel") else ""
        )
    return None


def _is_left_out(name: str, known: set, transformer, config: dict) -> bool:
    """Whether a tensor of the checkpoint is one that is not read on purpose."""
    if not name.startswith("bert/"):
        return True  # A head, or an optimizer's step.
    if name.rpartition("/")[0] in known:
        return True  # A slot that an optimizer keeps beside its variable: `.../kernel/adam_m`.
    if name == "bert/embeddings/position_ids":
        return True  # The numbers 0, 1, 2, ... of old PyTorch files.
    if name.startswith("bert/pooler/dense/"):
        return not transformer.with_pool
    layer = re.match(r"bert/encoder/layer_(\d+)/", name)
    # Layers that the checkpoint's own config does not know of are no one's intention.
    return layer is not None and (
        transformer.num_hidden_layers <= int(layer[1]) < config["num_hidden_layers"]
    )
