"""A saved model whose only form is model.onnx: a sum over the tokens, or a score for each."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bert_of_theseus.deploy.base import GRAPH_NAME, Limits

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##s", "天"]
LABELS = ["bad", "so-so", "好"]
MAX_LENGTH = 32


def tables(width=3):
    """What a token, and a segment, adds to each score."""
    rng = np.random.default_rng(0)
    of_tokens = rng.normal(0, 0.5, (len(VOCAB), width))
    return of_tokens - of_tokens.mean(0), rng.normal(0, 0.1, (2, width))


def write(directory, *, tags=False, labels=LABELS, kinds=("onnx",), **config):
    """Writes a folder as `save_pretrained` and `export_onnx` would."""
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    config = {
        "model_type": "bert",
        "vocab_size": len(VOCAB),
        **{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
        "num_hidden_layers": 1,
        "max_position_embeddings": MAX_LENGTH,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        **config,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    activation = config.get("classifier_activation", "softmax")
    for kind in kinds:
        path = directory / f"model.{kind}"
        model = _model(tags, activation, len(labels))
        limits = Limits(MAX_LENGTH, len(VOCAB), segments=2)
        helper.set_model_props(model, {Limits.KEY: limits.to_json()})
        onnx.save(model, path)
    return directory


def _model(tags, activation, width):
    constants = {
        "token_table": tables(width)[0].astype("float32"),
        "segment_table": tables(width)[1].astype("float32"),
        "zero": np.array(0, "int32"),
        "last": np.array([-1]),
        "tokens": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["token_table", "token_ids"], ["of_tokens"]),
        helper.make_node("Gather", ["segment_table", "segment_ids"], ["of_segments"]),
        helper.make_node("Add", ["of_tokens", "of_segments"], ["of_both"]),
        helper.make_node("Equal", ["token_ids", "zero"], ["is_padding"]),
        helper.make_node("Not", ["is_padding"], ["is_text"]),
        helper.make_node("Cast", ["is_text"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["of_both", "wide_mask"], ["scores"]),
    ]
    name = "scores"
    if not tags:
        nodes.append(helper.make_node("ReduceSum", [name, "tokens"], ["sums"], keepdims=0))
        name = "sums"
    operator = {"softmax": "Softmax", "sigmoid": "Sigmoid", "linear": "Identity"}[activation]
    nodes.append(helper.make_node(operator, [name], ["output"]))
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"])
        for name in ("token_ids", "segment_ids")
    ]
    output = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, ["batch", *(["length"] if tags else []), width]
    )
    stored = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, GRAPH_NAME, ids, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
