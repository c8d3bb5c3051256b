"""ONNX files for ONNX Runtime: BERT from its fused operations, other models by tf2onnx."""

from __future__ import annotations

import contextlib
import logging
import os

import numpy as np

from .export import (
    Bert,
    check_quantize,
    keras_function,
    read_source,
    traced,
    write_export,
)
from .runtimes import import_package

_OPSET, _IR_VERSION = 17, 9  # of 2022: what any ONNX Runtime in use reads
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

    The file takes and gives what `export_litert`'s does. A bert4keras BERT with one of the heads
    of `bert_of_theseus.heads` is written in ONNX Runtime's fused operations (attention, embedding
    and normalisation, bias and GELU), the last layer for `[CLS]` alone where the head asks for no
    more; no other runtime knows these operations. Any other Keras model goes through tf2onnx.

    Args:
        path: the file, `*.onnx`. What was there before is replaced when the new file is written
            and does what the model does, and is left as it is otherwise.
        transformer: a bert4keras Transformer, as `save_pretrained` takes it, or a Keras model from
            token and segment ids.
        classifier: Keras model or layer on the transformer's output.
        quantize: how weights are stored: `None` for float32, or `"int8"`, in which matrices are
            also multiplied (dynamic: activations are rounded as they come).
        sample: `(token_ids, segment_ids)` to compare the file's output with the model's on;
            default: random tokens, with padding, in two shapes.
        tolerance: how far the two may be apart, as a share of the largest output (at least 1);
            default: 1e-4, with int8 0.25.

    Raises:
        TypeError: an argument is no such thing.
        ImportError: onnx, onnxruntime or tf2onnx is needed and not installed.
        ValueError: the model has other inputs, or an operation that ONNX lacks; or the outputs
            differ.
        OSError: the file could not be written.

    Example:

        export_onnx("successor/model.onnx", successor, classifier)
    """
    check_quantize(quantize, (None, "int8"))
    onnx = import_package("onnx")
    import_package("onnxruntime")
    source = read_source(transformer, classifier)

    def make(scratch):
        model = _convert(source) if source.bert is None else bert_graph(source.bert)
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
            # Shapes are not inferred through the fused operations; all that is not said is float.
            extra_options={"DefaultTensorType": 1},
        )


@contextlib.contextmanager
def _quiet():
    """Silences the advice that the converters log, errors excepted."""
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
                    # TensorFlow's newer operations, which tf2onnx does not know.
                    "Erfc": (_erfc, []),
                    "BroadcastArgs": (_broadcast_args, []),
                    # It multiplies both sides with 0 or 1: NaN where one is minus infinity.
                    "SelectV2": (_where, []),
                },
            )
    except Exception as error:  # of many kinds, as tf2onnx passes on what it meets
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
    """The shape to which two shapes broadcast: that of what they broadcast to."""
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


def bert_graph(bert: Bert):
    """BERT at inference in ONNX Runtime's fused operations: an ONNX `ModelProto`."""
    from onnx import TensorProto, helper, numpy_helper

    config, tensors = bert.config, bert.tensors
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    nodes, constants = [], {}

    def node(op, *inputs, outputs=1, fused=False, **attributes):
        name = f"{op}_{len(nodes)}"
        names = [f"{name}_output_{number}" for number in range(outputs)]
        domain = _FUSED if fused else ""
        nodes.append(helper.make_node(op, inputs, names, name, domain=domain, **attributes))
        return names[0]

    def constant(name, value=None):
        constants[name] = tensors[name] if value is None else value
        return name

    def several(name, part):
        """The kernels or biases of an attention's three dense layers side by side."""
        layers = [tensors[f"{name}/{layer}/{part}"] for layer in ("query", "key", "value")]
        return constant(f"{name}/{part}", np.concatenate(layers, -1))

    def kernel(x, name):
        return node("MatMul", x, constant(f"{name}/kernel"))

    def add_and_norm(x, skip, name):
        inputs = (constant(f"{name}/LayerNorm/{part}") for part in ("gamma", "beta"))
        bias = constant(f"{name}/dense/bias")
        return node("SkipLayerNormalization", x, skip, *inputs, bias, fused=True, epsilon=epsilon)

    def activate(x, bias, activation):
        if activation in ("gelu", "gelu_tanh"):
            return node({"gelu": "BiasGelu"}.get(activation, "FastGelu"), x, bias, fused=True)
        x = node("Add", x, bias)
        if activation == "linear":
            return x
        if activation == "swish":
            return node("Mul", x, node("Sigmoid", x))
        if activation == "softmax":
            return node("Softmax", x, axis=-1)
        return node({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[activation], x)

    def layer(x, mask, name, first_token):
        inner = f"{name}/attention/self"
        options = {"num_heads": heads, "mask_filter_value": -1e9, "fused": True}
        biases = several(inner, "bias")
        if first_token:
            y = node("Gather", x, constant("first", np.array([0])), axis=1)
            parts = (kernel(z, f"{inner}/{p}") for z, p in ((y, "query"), (x, "key"), (x, "value")))
            mixed = node("MultiHeadAttention", *parts, biases, mask, **options)
        else:
            y = x
            mixed = node("Attention", x, several(inner, "kernel"), biases, mask, **options)
        y = add_and_norm(
            kernel(mixed, f"{name}/attention/output/dense"), y, f"{name}/attention/output"
        )
        bias = constant(f"{name}/intermediate/dense/bias")
        z = activate(kernel(y, f"{name}/intermediate/dense"), bias, config["hidden_act"])
        return add_and_norm(kernel(z, f"{name}/output/dense"), y, f"{name}/output")

    is_padding = node("Equal", "token_ids", constant("padding", np.array(0, "int32")))
    mask = node("Cast", node("Not", is_padding), to=TensorProto.INT32)
    names = [f"{part}_embeddings" for part in ("word", "position", "token_type")]
    names += ["LayerNorm/gamma", "LayerNorm/beta"]
    x = node(
        "EmbedLayerNormalization",
        "token_ids",
        "segment_ids",
        *(constant(f"bert/embeddings/{name}") for name in names),
        outputs=2,
        fused=True,
        epsilon=epsilon,
    )
    for index in range(config["num_hidden_layers"]):
        first_token = bert.first_token and index == config["num_hidden_layers"] - 1
        x = layer(x, mask, f"bert/encoder/layer_{index}", first_token)
    if bert.first_token:
        x = node("Gather", x, constant("only", np.array(0)), axis=1)
    for index, dense in enumerate(bert.head):
        x = node("MatMul", x, constant(f"head_{index}/kernel", dense.kernel))
        x = activate(x, constant(f"head_{index}/bias", dense.bias), dense.activation)
    nodes.append(helper.make_node("Identity", [x], ["output"], "output"))

    shape = ["batch_size", "sequence_length"]
    size = bert.head[-1].bias.shape[0] if bert.head else config["hidden_size"]
    graph = helper.make_graph(
        nodes,
        "bert",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32, shape)
            for name in ("token_ids", "segment_ids")
        ],
        [
            helper.make_tensor_value_info(
                "output", TensorProto.FLOAT, [*shape[: 1 if bert.first_token else 2], size]
            )
        ],
        [
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(
        graph,
        producer_name="bert_of_theseus",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
    )
