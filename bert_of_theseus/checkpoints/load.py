"""Builds bert4keras' BERT from a checkpoint's folder, of either format."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path

import numpy as np

from ..files import check_files, read_json
from ..validation import integer
from .base import Checkpoint, missing_file
from .configs import ACTIVATIONS
from .google import GoogleCheckpoint
from .huggingface import HuggingFaceCheckpoint

KINDS = (GoogleCheckpoint, HuggingFaceCheckpoint)
_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"


def find_checkpoint(directory: str | os.PathLike) -> Checkpoint:
    """Opens the BERT checkpoint in a folder, of either format.

    Reads the config and the table of contents, but no values.

    Args:
        directory: A folder with `bert_config.json` and one `*.ckpt*` (Google), or with
            `config.json` and `model.safetensors`, whole or in shards (Hugging Face).

    Returns:
        A `Checkpoint`: `config`, `vocab_path`, `names`, `shape(name)`, `dtype(name)` and
        `tensor(name)`.

    Raises:
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ValueError: if a file cannot be read, does not match the folder's checksums.json, or does
            not describe a BERT encoder.
    """
    path = Path(directory)
    kinds = [kind for kind in KINDS if path.is_dir() and kind.find_tensors(path)]
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

    Every token needs a row, so more tokens than rows is an error. Fewer tokens are a warning: some
    models pad their embeddings to a round number. Where the folder has a checksums.json that lists
    vocab.txt and tokenizer_config.json, they must match it.

    Args:
        vocab_path: `vocab.txt`, one token a line.
        config: A dict with `vocab_size`, as `Checkpoint.config`.
        stacklevel: As in `warnings.warn`, for a warning at the caller's line. Defaults to 1.

    Returns:
        The number of tokens.

    Raises:
        ValueError: if there are too many tokens or none, a token stands twice (bert4keras would
            then shift the ids of all later ones), `[PAD]` is not the first (the model masks id 0),
            or a file does not match its checksum.
    """
    path, rows = str(vocab_path), config["vocab_size"]
    settings = Path(vocab_path).with_name("tokenizer_config.json")
    check_files(settings.parent, [Path(vocab_path).name, settings.name])
    if settings.is_file():
        read_json(settings)  # of use to tokenizers; damage is reported here too
    try:
        with open(vocab_path, encoding="utf-8") as lines:
            # As bert4keras reads it: the first word of a line. No two lines may share it.
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
        raise ValueError(f"{path!r} must have '[PAD]' in line 1, not in line {seen['[PAD]']}.")
    if len(tokens) > rows:
        raise ValueError(
            f"{path!r} holds {len(tokens)} tokens, but the model's embeddings have {rows} rows "
            "(vocab_size); they do not belong together."
        )
    if len(tokens) < rows:
        warnings.warn(
            f"{path!r} holds {len(tokens)} tokens and the model's embeddings have {rows} rows; "
            "the other rows are not used.",
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

    Loads the embeddings, the first `num_hidden_layers` layers, the pooler with `with_pool=True`,
    and BERT's pretraining heads with `with_mlm=True` or `with_nsp=True`. Skips deeper layers, heads
    of other tasks and an optimizer's variables. Anything else in the encoder that is missing,
    misshapen or left over is an error.

    Args:
        directory: A folder with a Google checkpoint or a Hugging Face directory.
        num_hidden_layers: Number of layers to load, from the first. Defaults to all.
        prefix: Put before the name of each layer, so that one model can hold two encoders.
        with_pool: Whether the output is the pooled `[CLS]`, `(batch_size, hidden_size)`, instead of
            the hidden states, `(batch_size, sequence_length, hidden_size)`.
        **kwargs: Other arguments of bert4keras' `build_transformer_model`, such as
            `dropout_rate`, `sequence_length`, `keep_tokens` or `application`.

    Returns:
        A bert4keras `Transformer`; its `.model` is the Keras model.

    Raises:
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ValueError: if the checkpoint does not fit the model or cannot be read. All tensors at fault
            are named at once.
    """
    return _load_bert(
        find_checkpoint(directory), num_hidden_layers, prefix, with_pool=with_pool, **kwargs
    )


def _load_bert(checkpoint: Checkpoint, num_hidden_layers, prefix: str, model="bert", **kwargs):
    if model not in ("bert", "roberta"):
        raise ValueError(f"`model` must be 'bert' or 'roberta'. Received: {model!r}.")
    _refuse_other_families(checkpoint)
    checkpoint.check()
    depth = checkpoint.config["num_hidden_layers"]
    num_hidden_layers = integer("num_hidden_layers", num_hidden_layers, 1, depth, optional=True)
    options = {**checkpoint.config, **kwargs, "prefix": prefix, "model": model}
    options["hidden_act"] = _activation(options["hidden_act"])
    options["num_hidden_layers"] = num_hidden_layers or depth
    transformer = _build(options)
    _load(transformer, checkpoint, options)
    return transformer


def _refuse_other_families(checkpoint: Checkpoint) -> None:
    model_type = checkpoint.config["model_type"]
    if model_type != "bert":
        raise ValueError(
            f"{str(checkpoint.directory)!r} holds a model of type {model_type!r}, which needs Keras "
            "3 with KerasHub; bert4keras' BERT takes the weights of 'bert' only."
        )


def build_bert(config: dict, *, num_hidden_layers: int | None = None, prefix: str = ""):
    """Builds a bert4keras BERT with random weights.

    Args:
        config: BERT's hyperparameters, as `Checkpoint.config`.
        num_hidden_layers: Number of layers. Defaults to the config's.
        prefix: Put before the name of each layer, so that one model can hold two encoders.

    Returns:
        A bert4keras `Transformer`.
    """
    options = {**config, "num_hidden_layers": num_hidden_layers or config["num_hidden_layers"]}
    transformer = _build({**options, "prefix": prefix})
    # In Keras 2 the weights that share an initializer start with equal values, queries as keys.
    for layer in transformer.layers.values():
        for weight in getattr(layer, "weights", ()):
            if len(weight.shape) > 1:
                weight.assign(transformer.initializer(weight.shape))
    set_layer_norm_epsilon(transformer, config["layer_norm_eps"])
    return transformer


def _build(options: dict):
    """A bert4keras `Transformer` whose weights are to be replaced."""
    build_transformer_model = bert4keras_models().build_transformer_model
    with shared_initializers_allowed():
        return build_transformer_model(return_keras_model=False, **options)


def load_weights(transformer, directory: str | os.PathLike) -> None:
    """Loads a checkpoint's weights into a bert4keras BERT, all of them or none.

    Loads what the model has, as `load_bert` does, frozen layers too. LayerNorm's epsilon, which
    bert4keras fixes at 1e-12, is set to the checkpoint's.

    Args:
        transformer: What `build_transformer_model(..., return_keras_model=False)` returns.
        directory: A folder with a Google checkpoint or a Hugging Face directory.

    Raises:
        TypeError: if `transformer` is not a bert4keras `Transformer`.
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ValueError: if the checkpoint does not fit the model or cannot be read. All tensors at fault
            are named at once, and the model is unchanged.
    """
    checkpoint = find_checkpoint(directory)
    _load(transformer, checkpoint, checkpoint.config)


def load_pretrained(directory: str | os.PathLike, *, prefix: str = "", **kwargs):
    """Loads a bert4keras BERT with its head.

    Reads what `save_pretrained` and `save_checkpoint` write, a `BertForSequenceClassification` or
    `BertForTokenClassification` of `transformers`, and the output of Google's `run_classifier.py`.
    Files that the folder's checksums.json lists must match it. No code from the folder is run: a
    head.keras may name Keras' own classes and those registered in this process.

    Args:
        directory: A folder with a Hugging Face directory or a Google checkpoint.
        prefix: Put before the name of each layer of the encoder.
        **kwargs: As for `load_bert`.

    Returns:
        `(transformer, classifier, labels)`: a bert4keras `Transformer`, a Keras model on its
        output or `None`, and the class names or `None`.

    Raises:
        FileNotFoundError: if the folder or one of the files is missing; says what is there.
        ValueError: if the checkpoint, its head or its vocabulary cannot be read, do not match their
            checksums, or do not fit together.

    Example:

        transformer, classifier, labels = load_pretrained("successor")
        model = keras.Model(transformer.inputs, classifier(transformer.output))
    """
    bert4keras_models()  # before Keras
    from .heads import load_head

    checkpoint = find_checkpoint(directory)
    classifier, labels = load_head(checkpoint)
    if classifier is not None:
        kwargs["with_pool"] = len(classifier.input_shape) == 2
    if (checkpoint.directory / "vocab.txt").is_file():
        check_vocab(checkpoint.vocab_path, checkpoint.config, stacklevel=2)
    else:
        check_files(checkpoint.directory, ["vocab.txt"])
    depth = kwargs.pop("num_hidden_layers", None)
    return _load_bert(checkpoint, depth, prefix, **kwargs), classifier, labels


def _activation(hidden_act):
    """bert4keras' name of an activation; anything but a name is returned as it is."""
    return ACTIVATIONS.get(hidden_act, hidden_act) if isinstance(hidden_act, str) else hidden_act


def bert4keras_models():
    """The module `bert4keras.models`, set up for today's TensorFlow."""
    import bert_of_theseus.bert4keras  # noqa: F401, I001  must come first
    from bert4keras import models

    return models


@contextlib.contextmanager
def shared_initializers_allowed():
    """Silences Keras 2's warning that bert4keras uses one initializer for several weights.

    They start with equal values, so this is for models whose weights are then replaced.
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
    _refuse_other_families(checkpoint)
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
    # Read all values before the first assignment: damage may show up only now.
    values = {name: checkpoint.tensor(name) for name in targets}
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} holds NaN or infinity (nothing "
            f"was loaded): {', '.join(map(checkpoint.stored_name, broken))}."
        )
    models.K.batch_set_value(
        # bert4keras' `load_variable` selects the rows in `keep_tokens` and transposes the
        # next-sentence kernel.
        [(weight, transformer.load_variable(values, name)) for name, weight in targets.items()]
    )
    set_layer_norm_epsilon(transformer, checkpoint.config["layer_norm_eps"])
    # `save_pretrained` warns about these. Deeper layers are left out on purpose.
    known = set(checkpoint.names)
    transformer.left_out = [
        name
        for name in checkpoint.names
        if name.startswith(("bert/pooler/", "cls/", "classifier/"))
        and name not in targets
        and name.rpartition("/")[0] not in known
    ]


def check_bert(transformer, models, verb: str) -> None:
    """Raises an error for anything but bert4keras' plain BERT."""
    if not isinstance(transformer, models.Transformer):
        raise TypeError(
            "`transformer` must be a bert4keras Transformer, from "
            "build_transformer_model(..., return_keras_model=False). Received: "
            f"{type(transformer).__name__}."
        )
    # ALBERT, NEZHA, ELECTRA and others are subclasses of BERT that override these methods.
    kind = type(transformer)
    methods = ("apply_embeddings", "apply_main_layers", "variable_mapping")
    if any(getattr(kind, part) is not getattr(models.BERT, part) for part in methods):
        raise ValueError(f"Only bert4keras' BERT can be {verb}. Received: {kind.__name__}.")


def weights_by_name(transformer) -> dict:
    """The model's weight for each canonical tensor name."""
    targets = {}
    for key, names in transformer.variable_mapping().items():
        layer = transformer.layers.get(transformer.prefixed(key))
        if layer is not None:
            weights = _weights(layer)
            # A conditional LayerNorm has more weights, which start at zero and have no effect.
            if len(weights) < len(names) or not (
                len(weights) == len(names) or getattr(layer, "conditional", False)
            ):
                raise ValueError(
                    f"Layer {layer.name!r} must have {len(names)} weights ({', '.join(names)}). "
                    f"Received: {len(weights)}."
                )
            targets.update(zip(names, weights, strict=False))
    return targets


def _weights(layer) -> list:
    """A layer's weights in the order of `variable_mapping()`, frozen or not."""
    # `layer.weights` lists trainable weights first, so a frozen `q_dense` would move to the end.
    parts = ("q_dense", "k_dense", "v_dense", "o_dense")
    if hasattr(layer, "i0_dense"):
        parts = ("i0_dense", "o_dense")
    layers = [getattr(layer, part) for part in parts if hasattr(layer, part)] or [layer]
    return [weight for part in layers for weight in part.weights]


def _problems(transformer, checkpoint: Checkpoint, options: dict, targets: dict) -> list[str]:
    """All mismatches between a checkpoint and a model that names and shapes show."""
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
        problems.append(f"heads, or others outside the encoder: {stored}")
    return problems


def _misfit(transformer, checkpoint: Checkpoint, name: str, shape: tuple) -> str | None:
    """What keeps a stored tensor from being the value of a weight of the given shape."""
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
        shape = shape[::-1]  # the only kernel that both formats store transposed
    if found != shape:
        return f"shape {found}, expected {shape}" + (
            ", as (input_size, output_size)" if name.endswith("/kernel") else ""
        )
    return None


def _is_left_out(name: str, known: set, transformer, config: dict) -> bool:
    """Whether a tensor of the checkpoint is skipped on purpose."""
    if not name.startswith("bert/"):
        return True  # a head, or an optimizer's step
    if name.rpartition("/")[0] in known:
        return True  # an optimizer's slot, named after its variable: `.../kernel/adam_m`
    if name == "bert/embeddings/position_ids":
        return True  # the numbers 0, 1, 2, ... in old PyTorch files
    if name.startswith("bert/pooler/dense/"):
        return not transformer.with_pool
    layer = re.match(r"bert/encoder/layer_(\d+)/", name)
    # Layers beyond `num_hidden_layers` mean that config and weights do not match: report them.
    return layer is not None and (
        transformer.num_hidden_layers <= int(layer[1]) < config["num_hidden_layers"]
    )
