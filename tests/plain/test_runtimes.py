"""ONNX files of other programs, and what a runtime refuses."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bert_of_theseus.deploy import open_runtime  # noqa: E402
from bert_of_theseus.files import replace_listed_file  # noqa: E402

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
    token_ids, segment_ids = np.array([[7, 5, 0]]), np.array([[0, 1, 1]])
    roles = {"segment": segment_ids, "type": segment_ids, "mask": token_ids != 0}
    expected = sum(
        factor * next((roles[role] for role in roles if role in name), token_ids)
        for factor, name in zip((100, 10, 1), names)
    )
    np.testing.assert_array_equal(runtime(token_ids, segment_ids), expected)
    assert runtime.max_length is None and runtime.vocab_size is None


def test_a_file_of_one_length(tmp_path):
    runtime = open_runtime(write(tmp_path / "any.onnx", OURS, shape=("batch", 4)))
    assert runtime.max_length == 4
    with pytest.raises(ValueError, match=r"at most 4 tokens\. Received: 5"):
        runtime(np.ones((1, 5), int))


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
