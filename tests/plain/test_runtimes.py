"""ONNX files of other programs, and what a runtime refuses."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bert_of_theseus.deploy import open_runtime  # noqa: E402
from bert_of_theseus.deploy.base import GRAPH_NAME, Limits  # noqa: E402
from bert_of_theseus.files import replace_listed_file  # noqa: E402

# pad_token_id is 1 by default.
ROBERTA = {
    "model_type": "roberta",
    **{"vocab_size": 9, "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1},
    "intermediate_size": 2,
}
OURS = ("token_ids", "segment_ids")
HUGGING_FACE = ("input_ids", "token_type_ids", "attention_mask")


def write(path, names, dtype=TensorProto.INT32, shape=("batch", "length")):
    """A model that returns 100 a + 10 b + c of its inputs a, b, c, for each token."""
    nodes, total = [], None
    for factor, name in zip((100, 10, 1), names):
        nodes.append(helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_f", f"x{factor}"], [f"{name}_x"]))
        if total:
            nodes.append(helper.make_node("Add", [total, f"{name}_x"], [f"{name}_sum"]))
        total = f"{name}_sum" if total else f"{name}_x"
    nodes.append(helper.make_node("Identity", [total], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(x), f"x{x}") for x in (100, 10, 1)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.mark.parametrize("dtype", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("names", [OURS, HUGGING_FACE, HUGGING_FACE[::2], OURS[:1]])
def test_files_of_other_programs(names, dtype, tmp_path):
    runtime = open_runtime(write(tmp_path / "any.onnx", names, dtype))
    has_segments = len(set(names) & {"segment_ids", "token_type_ids"})
    token_ids, segment_ids = np.array([[7, 5, 0]]), np.array([[0, 1, 1]]) * has_segments
    mask = [np.array([[1, 1, 0]])] if "attention_mask" in names else []
    roles = {"segment": segment_ids, "type": segment_ids, "mask": token_ids != 0}
    expected = sum(
        factor * next((roles[role] for role in roles if role in name), token_ids)
        for factor, name in zip((100, 10, 1), names)
    )
    np.testing.assert_array_equal(runtime(token_ids, segment_ids, *mask), expected)
    assert runtime.max_length is None and runtime.vocab_size is None
    if not has_segments:
        with pytest.raises(ValueError, match="`segment_ids` must be from 0 to 0"):
            runtime(token_ids, segment_ids + 1, *mask)


def test_which_tokens_are_padding(tmp_path):
    """The mask that is given, or what config.json says; without either no guess."""
    (tmp_path / "onnx").mkdir()
    runtime = open_runtime(write(tmp_path / "onnx/any.onnx", HUGGING_FACE[::2]))
    token_ids = np.array([[0, 5, 1, 1]])
    with pytest.raises(ValueError, match=r"`attention_mask` must be given.*no config\.json beside"):
        runtime(token_ids)
    for mask in ([[1, 1, 1, 0]], [[True, False, True, False]]):
        found = runtime(token_ids, attention_mask=mask)
        np.testing.assert_array_equal(found, 100 * token_ids + 10 * np.array(mask))
    for mask in ([[1, 1, 2, 0]], [[1, 1, 1]], [1, 1, 1, 1], [[0.5, 1, 1, 1]]):
        with pytest.raises(ValueError, match="`attention_mask` must be 0 or 1"):
            runtime(token_ids, attention_mask=mask)
    for config in ({"pad_token_id": 1}, ROBERTA):
        (tmp_path / "config.json").write_text(json.dumps(config))
        runtime = open_runtime(tmp_path / "onnx/any.onnx")
        found = runtime(token_ids)
        np.testing.assert_array_equal(found, 100 * token_ids + 10 * np.array([[1, 1, 0, 0]]))


def test_a_model_that_finds_the_padding_itself_takes_no_other_mask(tmp_path):
    runtime = open_runtime(write(tmp_path / "any.onnx", OURS))
    token_ids = np.array([[7, 0, 5]])
    expected = runtime(token_ids)
    np.testing.assert_array_equal(runtime(token_ids, None, [[1, 0, 1]]), expected)
    with pytest.raises(ValueError, match="hides other tokens"):
        runtime(token_ids, None, [[1, 1, 0]])


def test_one_output_or_one_that_is_known(tmp_path):
    path = write(tmp_path / "any.onnx", OURS)
    model = onnx.load(path)
    for name in ("start_logits", "end_logits"):
        model.graph.node.append(helper.make_node("Identity", ["logits"], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert open_runtime(path)(np.array([[1]])) == 100
    del model.graph.output[0]
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"one output.*Received: start_logits, end_logits"):
        open_runtime(path)


def test_a_file_of_one_length(tmp_path):
    runtime = open_runtime(write(tmp_path / "any.onnx", OURS, shape=("batch", 4)))
    assert runtime.max_length == 4
    with pytest.raises(ValueError, match=r"at most 4 tokens\. Received: 5"):
        runtime(np.ones((1, 5), int))


@pytest.mark.parametrize("graph, note, shape, drops", [
    (GRAPH_NAME, True, ("batch", "length"), True),
    (GRAPH_NAME, True, (4, "length"), False),
    (GRAPH_NAME, True, ("batch", 40), False),
    (GRAPH_NAME, False, ("batch", "length"), False),
    ("sum", True, ("batch", "length"), False),
])  # fmt: skip
def test_only_files_of_this_package_and_of_any_shape_run_without_their_padding(
    graph, note, shape, drops, tmp_path
):
    path = write(tmp_path / "any.onnx", HUGGING_FACE, shape=shape)
    model = onnx.load(path)
    model.graph.name = graph
    if note:
        helper.set_model_props(model, {Limits.KEY: Limits(40, 9, 2, 0).to_json()})
    # A tagger's logits have an axis of labels.
    total = model.graph.node[-1].input[0]
    model.graph.node[-1].CopyFrom(helper.make_node("Unsqueeze", [total, "last"], ["logits"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, (*shape, 1))
    )
    onnx.save(model, path)
    token_ids = np.ones((4, 40), int)
    token_ids[1:, 2:] = 0
    mask = token_ids != 0
    found = open_runtime(path)(token_ids, np.ones_like(token_ids), mask)
    np.testing.assert_array_equal(found[mask], 111)
    assert (found[1:, 4:] == (0 if drops else 10)).all()
    token_ids[0, 2:] = 0  # padding that all texts share
    found = open_runtime(path)(token_ids, np.ones_like(token_ids), token_ids != 0)
    assert (found[:, :2] == 111).all() and (found[:, 4:] == (0 if drops else 10)).all()


@pytest.mark.parametrize("names, options", [
    (("x", "y"), {}),
    (("segment_ids",), {}),
    (("token_ids", "position_ids"), {}),
    (OURS, {"dtype": TensorProto.FLOAT}),
    (OURS, {"shape": ("batch",)}),
])  # fmt: skip
def test_other_inputs_are_refused(names, options, tmp_path):
    path = write(tmp_path / "any.onnx", names, **options)
    with pytest.raises(ValueError, match=rf"must have the inputs token_ids.*Received: {names[0]}"):
        open_runtime(path)


def test_a_file_that_is_listed_must_match(tmp_path):
    path = tmp_path / "any.onnx"
    replace_listed_file(path, lambda scratch: write(scratch, OURS))
    open_runtime(path)
    write(path, OURS[::-1])
    with pytest.raises(ValueError, match=r"any\.onnx' does not match its checksum"):
        open_runtime(path)
