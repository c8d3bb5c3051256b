"""Export to ONNX: BERT in ONNX Runtime's fused operations, other models by tf2onnx."""

from __future__ import annotations

import contextlib
import logging
import os

import numpy as np

from ..validation import one_of
from .export import Description, keras_function, read_source, traced, write_export
from .runtimes import Limits, import_package

_OPSET, _IR_VERSION = 17, 9  # of 2022, which current ONNX Runtimes all read
_FUSED = "com.microsoft"  # the domain of ONNX Runtime's own operations


def export_onnx(
    path: str | os.PathLike,
    transformer,
    classifier=None,
    *,
    quantize: str | None = None,
    sample=None,
    tolerance: float | None = None,
) -> None:
    """Writes a model as an `.onnx` file, for ONNX Runtime.

    Inputs and output are those of `export_litert`. A bert4keras BERT with one of the heads of
    `bert_of_theseus.heads`, `span_head` excepted, is written in ONNX Runtime's fused operations
    (attention, embedding and normalization, bias and GELU), which no other runtime supports; if
    the head uses `[CLS]` only, the last layer computes only that. Any other Keras model is
    converted by tf2onnx.

    Args:
        path: The file, `*.onnx`; otherwise as in `export_litert`.
        transformer, classifier, sample: As in `export_litert`.
        quantize: How weights are stored: `None` for float32, or `"int8"`, in which matrices are
            also multiplied (dynamic quantization: activations are rounded per batch).
        tolerance: Largest difference between the two, relative to the largest output (at least
            1). Defaults to 1e-4, and to 0.25 for int8.

    Raises:
        TypeError: if an argument has the wrong type.
        ImportError: if onnx, onnxruntime or tf2onnx is needed and not installed.
        ValueError: if the model has other inputs or an operation that ONNX lacks, or the outputs
            differ.
        OSError: if the file could not be written.

    Example:

        export_onnx("successor/model.onnx", successor, classifier)
    """
    one_of("quantize", quantize, (None, "int8"))
    onnx = import_package("onnx")
    import_package("onnxruntime")
    source = read_source(transformer, classifier)

    def make(scratch):
        model = _convert(source) if source.bert is None else _BertGraph(source.bert).model()
        onnx.helper.set_model_props(model, {Limits.KEY: source.limits.to_json()})
        if quantize:
            _quantize(model, scratch)
        else:
            onnx.save(model, scratch)

    write_export(path, source, make, ".onnx", quantize, sample, tolerance)


def _quantize(model, path):
    from onnxruntime.quantization import quantize_dynamic

    with _quiet():
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            # Types are not inferred through the fused operations; treat unknown ones as float.
            extra_options={"DefaultTensorType": 1},
        )


@contextlib.contextmanager
def _quiet():
    """Silences the converters' log, except for errors."""
    loggers = [logging.getLogger(name) for name in (None, "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


# Any Keras model.


def _convert(source):
    tf2onnx = import_package("tf2onnx")
    function = traced(keras_function(source.model), source.length)
    try:
        with _quiet():
            model, _ = tf2onnx.convert.from_function(
                function,
                input_signature=function.input_signature,
                opset=_OPSET,
                custom_op_handlers={
                    # Newer operations of TensorFlow, which tf2onnx does not support.
                    "Erfc": (_erfc, []),
                    "BroadcastArgs": (_broadcast_args, []),
                    # tf2onnx multiplies both sides by 0 or 1: NaN where one is minus infinity.
                    "SelectV2": (_where, []),
                },
            )
    except Exception as error:  # tf2onnx passes on errors of many classes
        raise ValueError(f"The model cannot be converted to ONNX: {error}") from error
    return model


def _erfc(context, node, name, _):
    (x,), outputs = node.input, node.output
    dtype, shape = context.get_dtype(outputs[0]), context.get_shape(outputs[0])
    context.remove_node(name)
    one = context.make_const(f"{name}_one", np.float32(1)).output[0]
    erf = context.make_node("Erf", [x]).output[0]
    context.make_node("Sub", [one, erf], outputs=outputs, dtypes=[dtype], shapes=[shape])


def _where(context, node, name, _):
    inputs, outputs = node.input, node.output
    dtype, shape = context.get_dtype(outputs[0]), context.get_shape(outputs[0])
    context.remove_node(name)
    context.make_node("Where", inputs, outputs=outputs, dtypes=[dtype], shapes=[shape])


def _broadcast_args(context, node, name, _):
    """The shape that two shapes broadcast to, from a tensor that is broadcast."""
    from onnx import TensorProto

    inputs, outputs = node.input, node.output
    dtype = context.get_dtype(outputs[0])
    context.remove_node(name)

    def make(op, inputs, **attributes):
        return context.make_node(op, inputs, attr=attributes).output[0]

    first, second = (make("Cast", [x], to=TensorProto.INT64) for x in inputs)
    expanded = make("Expand", [make("ConstantOfShape", [first]), second])
    context.make_node(
        "Cast", [make("Shape", [expanded])], attr={"to": dtype}, outputs=outputs, dtypes=[dtype]
    )


# BERT.


class _BertGraph:
    """BERT at inference in ONNX Runtime's fused operations.

    Each method but `model` adds nodes and returns the name of their output.
    """

    def __init__(self, bert: Description):
        self.config, self.tensors, self.head = bert.config, bert.tensors, bert.dense_layers
        self.first_token = bert.first_token
        self.nodes, self.constants = [], {}

    def model(self):
        from onnx import TensorProto, helper, numpy_helper

        self.nodes.append(helper.make_node("Identity", [self.output()], ["output"], "output"))
        shape = ["batch_size", "sequence_length"]
        size = self.head[-1].bias.shape[0] if self.head else self.config["hidden_size"]
        output_shape = [*shape[: 1 if self.first_token else 2], size]
        graph = helper.make_graph(
            self.nodes,
            "bert",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32, shape)
                for name in ("token_ids", "segment_ids")
            ],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
            [
                numpy_helper.from_array(np.asarray(value, order="C"), name)
                for name, value in self.constants.items()
            ],
        )
        return helper.make_model(
            graph,
            producer_name="bert_of_theseus",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
        )

    def output(self):
        """The encoder and the head."""
        from onnx import TensorProto

        is_padding = self.node("Equal", "token_ids", self.constant("padding", np.int32(0)))
        mask = self.node("Cast", self.node("Not", is_padding), to=TensorProto.INT32)
        x = self.embeddings()
        last = self.config["num_hidden_layers"] - 1
        for index in range(last + 1):
            first_token = self.first_token and index == last
            x = self.layer(x, mask, f"bert/encoder/layer_{index}", first_token)
        if self.first_token:
            x = self.node("Gather", x, self.constant("only", np.array(0)), axis=1)
        for index, dense in enumerate(self.head):
            x = self.node("MatMul", x, self.constant(f"head_{index}/kernel", dense.kernel))
            bias = self.constant(f"head_{index}/bias", dense.bias)
            x = self.activate(x, bias, dense.activation)
        return x

    def embeddings(self):
        names = [f"{part}_embeddings" for part in ("word", "position", "token_type")]
        names += ["LayerNorm/gamma", "LayerNorm/beta"]
        weights = [self.constant(f"bert/embeddings/{name}") for name in names]
        epsilon = self.config["layer_norm_eps"]
        return self.fused(
            "EmbedLayerNormalization", "token_ids", "segment_ids", *weights, outputs=2,
            epsilon=epsilon,
        )  # fmt: skip

    def layer(self, x, mask, name, first_token):
        """A layer of the encoder, for all tokens or for the first one alone."""
        inner = f"{name}/attention/self"
        parts = ("query", "key", "value")
        options = {"num_heads": self.config["num_attention_heads"], "mask_filter_value": -1e9}
        biases = self.side_by_side(inner, "bias")
        y = x
        if first_token:
            y = self.node("Gather", x, self.constant("first", np.array([0])), axis=1)
            q, k, v = (self.kernel(z, f"{inner}/{part}") for z, part in zip((y, x, x), parts))
            mixed = self.fused("MultiHeadAttention", q, k, v, biases, mask, **options)
        else:
            kernels = self.side_by_side(inner, "kernel")
            mixed = self.fused("Attention", x, kernels, biases, mask, **options)
        mixed = self.kernel(mixed, f"{name}/attention/output/dense")
        y = self.add_and_norm(mixed, y, f"{name}/attention/output")
        bias = self.constant(f"{name}/intermediate/dense/bias")
        z = self.kernel(y, f"{name}/intermediate/dense")
        z = self.activate(z, bias, self.config["hidden_act"])
        return self.add_and_norm(self.kernel(z, f"{name}/output/dense"), y, f"{name}/output")

    def add_and_norm(self, x, skip, name):
        inputs = [self.constant(f"{name}/LayerNorm/{part}") for part in ("gamma", "beta")]
        inputs.append(self.constant(f"{name}/dense/bias"))
        epsilon = self.config["layer_norm_eps"]
        return self.fused("SkipLayerNormalization", x, skip, *inputs, epsilon=epsilon)

    def activate(self, x, bias, activation):
        if activation in ("gelu", "gelu_tanh"):
            return self.fused({"gelu": "BiasGelu"}.get(activation, "FastGelu"), x, bias)
        x = self.node("Add", x, bias)
        if activation == "linear":
            return x
        if activation == "swish":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if activation == "softmax":
            return self.node("Softmax", x, axis=-1)
        operations = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        return self.node(operations[activation], x)

    def kernel(self, x, name):
        return self.node("MatMul", x, self.constant(f"{name}/kernel"))

    def side_by_side(self, name, part):
        """The kernels or biases of query, key and value, concatenated."""
        values = [self.tensors[f"{name}/{layer}/{part}"] for layer in ("query", "key", "value")]
        return self.constant(f"{name}/{part}", np.concatenate(values, -1))

    def constant(self, name, value=None):
        self.constants[name] = self.tensors[name] if value is None else value
        return name

    def fused(self, op, *inputs, **options):
        """One of ONNX Runtime's own operations."""
        return self.node(op, *inputs, domain=_FUSED, **options)

    def node(self, op, *inputs, outputs=1, **options):
        from onnx import helper

        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}_output_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name, **options))
        return names[0]
