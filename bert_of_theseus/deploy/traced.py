"""Any Keras model as an ONNX graph, by tf2onnx."""

from __future__ import annotations

import contextlib
import logging

import numpy as np

from .base import EXPORT_EXTRA, import_package
from .export import Source, keras_function, traced
from .graph import OPSET


@contextlib.contextmanager
def quiet_converters():
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


def trace_to_onnx(source: Source):
    """The ONNX model of any Keras model, by tf2onnx.

    Raises:
        ImportError: if tf2onnx is not installed.
        ValueError: if the model has an operation that ONNX lacks.
    """
    tf2onnx = import_package("tf2onnx", EXPORT_EXTRA)
    function = traced(keras_function(source.model), source.length)
    try:
        with quiet_converters():
            model, _ = tf2onnx.convert.from_function(
                function,
                input_signature=function.input_signature,
                opset=OPSET,
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
