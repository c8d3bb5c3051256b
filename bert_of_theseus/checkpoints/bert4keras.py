"""bert4keras' BERT from a checkpoint, and as the numbers of one."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings

from ..validation import integer
from .base import Checkpoint, misfit
from .configs import ACTIVATIONS
from .load import find_checkpoint

_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"


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
    return load_encoder(
        find_checkpoint(directory), num_hidden_layers, prefix, with_pool=with_pool, **kwargs
    )


def load_encoder(checkpoint: Checkpoint, num_hidden_layers, prefix: str, model="bert", **kwargs):
    if model not in ("bert", "roberta"):
        raise ValueError(f"`model` must be 'bert' or 'roberta'. Received: {model!r}.")
    require_bert(checkpoint)
    checkpoint.check()
    depth = checkpoint.config["num_hidden_layers"]
    num_hidden_layers = integer("num_hidden_layers", num_hidden_layers, 1, depth, optional=True)
    options = {**_options(checkpoint.config), **kwargs, "prefix": prefix, "model": model}
    options["hidden_act"] = _activation(options["hidden_act"])
    options["num_hidden_layers"] = num_hidden_layers or depth
    transformer = _build(options)
    _load(transformer, checkpoint, options)
    return transformer


def require_bert(checkpoint: Checkpoint) -> None:
    """Raises a `ValueError` for the families that bert4keras does not have."""
    model_type = checkpoint.config["model_type"]
    if model_type != "bert":
        raise ValueError(
            f"{str(checkpoint.directory)!r} holds a model of type {model_type!r}, which needs "
            "Keras 3 with KerasHub; bert4keras' BERT takes the weights of 'bert' only."
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
    depth = num_hidden_layers or config["num_hidden_layers"]
    options = {**_options(config), "num_hidden_layers": depth}
    transformer = _build({**options, "prefix": prefix})
    # In Keras 2 the weights that share an initializer start with equal values, queries as keys.
    for layer in transformer.layers.values():
        for weight in getattr(layer, "weights", ()):
            if len(weight.shape) > 1:
                weight.assign(transformer.initializer(weight.shape))
    set_layer_norm_epsilon(transformer, config["layer_norm_eps"])
    return transformer


def _options(config: dict) -> dict:
    """The keys of a config that bert4keras takes."""
    return {k: v for k, v in config.items() if k not in ("model_type", "pad_token_id")}


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
    require_bert(checkpoint)
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
    values = checkpoint.tensors(targets)
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
    found = checkpoint.shape(name)
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
    return misfit(checkpoint, name, shape)


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


def is_transformer(model) -> bool:
    """Whether `model` is a bert4keras `Transformer`; imports nothing to find out."""
    models = sys.modules.get("bert4keras.models")
    return models is not None and isinstance(model, models.Transformer)


def describe_transformer(transformer, verb: str) -> tuple[dict, dict]:
    """A bert4keras BERT as canonical config and tensors.

    Raises:
        ValueError: if it is not a plain BERT, or has an option that no config can express.
    """
    models = bert4keras_models()
    check_bert(transformer, models, verb)
    config = _config(transformer, models)
    weights = weights_by_name(transformer)
    values = models.K.batch_get_value(list(weights.values()))
    tensors = {name: value.astype("float32", copy=False) for name, value in zip(weights, values)}
    turned = "cls/seq_relationship/output_weights"
    if turned in tensors:
        tensors[turned] = tensors[turned].T
    return config, tensors


def _config(transformer, models) -> dict:
    """BERT's hyperparameters, from the layers. Refuses what no config can express."""
    t = transformer
    sizes = {t.attention_head_size * t.num_attention_heads,
             t.attention_key_size * t.num_attention_heads}  # fmt: skip
    mask = type(t).compute_attention_bias is not models.Transformer.compute_attention_bias
    problems = {
        "attention heads of another size": sizes != {t.hidden_size},
        "a custom attention mask (application='lm' or 'unilm')": mask,
        "no segments": not t.segment_vocab_size,
        "a pooler without tanh": t.with_pool not in (False, True),
        "layer_norm_cond": t.layer_norm_conds[0] is not None,
        "attention_caches": bool(t.attention_caches),
        "additional inputs": len(t.inputs) > 2,
    }
    for option in ("hierarchical_position", "shared_segment_embeddings",
                   "residual_attention_scores"):  # fmt: skip
        problems[option] = bool(getattr(t, option))

    layers = t.layers.values()
    epsilons = {layer.epsilon for layer in layers if isinstance(layer, models.LayerNormalization)}
    activations = {
        function.__name__ if len(layer.activation) == 1 else "gated"
        for layer in layers
        if isinstance(layer, models.FeedForward)
        for function in layer.activation
    }
    problems[f"LayerNorm epsilons {sorted(epsilons)}"] = len(epsilons) != 1
    problems[f"activation {', '.join(sorted(activations))}"] = len(
        activations
    ) != 1 or not activations <= set(ACTIVATIONS)
    found = [problem for problem, is_there in problems.items() if is_there]
    if found:
        raise ValueError(
            f"`transformer` cannot be saved as a BERT: no config can express {', '.join(found)}."
        )
    config = {
        "model_type": "bert",
        "vocab_size": t.vocab_size,
        "hidden_size": t.hidden_size,
        "num_hidden_layers": t.num_hidden_layers,
        "num_attention_heads": t.num_attention_heads,
        "intermediate_size": t.intermediate_size,
        "hidden_act": ACTIVATIONS[activations.pop()],
        "hidden_dropout_prob": t.dropout_rate,
        "attention_probs_dropout_prob": t.attention_dropout_rate,
        "max_position_embeddings": t.max_position,
        "type_vocab_size": t.segment_vocab_size,
        "layer_norm_eps": epsilons.pop(),
        "pad_token_id": 0,
    }
    if t.embedding_size != t.hidden_size:
        config["embedding_size"] = t.embedding_size
    return config
