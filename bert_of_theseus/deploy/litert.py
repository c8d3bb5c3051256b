"""Export to LiteRT, formerly TensorFlow Lite, by TensorFlow's converter."""

from __future__ import annotations

import os
import tempfile
import zipfile

import numpy as np

from ..checkpoints.describe import Description
from ..validation import one_of
from .base import Limits
from .export import keras_function, read_source, traced, write_export

_PROJECTION = "bert/encoder/embedding_hidden_mapping_in"


def export_litert(
    path: str | os.PathLike,
    encoder,
    classifier=None,
    *,
    quantize: str | None = None,
    sample=None,
    tolerance: float | None = None,
) -> None:
    """Writes a model as a `.tflite` file, for LiteRT on servers, phones and boards.

    The file takes `token_ids` and `segment_ids`, int32 `(batch_size, sequence_length)` of any
    size, masks padding (id 0), and returns `output`, float32: the classifier's output, or the
    encoder's if there is none. A BERT of bert4keras or KerasHub with one of the heads of
    `bert_of_theseus.heads`, `span_head` excepted, is written as a graph for inference: if the head
    uses `[CLS]` only, the last layer computes only that. Any other Keras model of token and segment
    ids is converted as it is. Keras must run on TensorFlow.

    Args:
        path: The file, `*.tflite`. An existing file is replaced once the new one is written and
            its outputs are those of the model, and left as it is otherwise. The checksums.json of
            the folder is updated, or written.
        encoder: A bert4keras Transformer or a KerasHub BERT, as for `save_pretrained`, or a Keras
            model from token and segment ids.
        classifier: Keras model or layer on the encoder's output.
        quantize: How weights are stored: `None` for float32, `"float16"`, or `"int8"`, in which
            matrices are also multiplied (dynamic range: activations are rounded per batch).
        sample: `(token_ids, segment_ids)` to compare the file's output with the model's on.
            Defaults to random tokens, with padding, in two shapes.
        tolerance: Largest difference between the two, relative to the largest output (at least
            1). Defaults to 1e-4, to 0.01 for float16, and to 0.25 for int8.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model has other inputs or an operation that LiteRT lacks, or the outputs
            differ.
        OSError: if the file could not be written.

    Example:

        export_litert("successor/model.int8.tflite", successor, classifier, quantize="int8")
    """
    one_of("quantize", quantize, (None, "float16", "int8"))
    from ..backend import require_tensorflow

    require_tensorflow("LiteRT files are exported from Keras on TensorFlow.")
    source = read_source(encoder, classifier)
    if source.description is not None:
        _check_bert(source.description.config)
        function, variables = bert_function(source.description)
        function = traced(function, source.length)
    else:
        variables = []
        function = _with_expanded_masks(traced(keras_function(source.model), source.length))

    def make(scratch):
        scratch.write_bytes(_convert(function, variables, quantize, scratch.parent))
        with zipfile.ZipFile(scratch, "a") as archive:  # appended; LiteRT does not read it
            archive.writestr(Limits.KEY, source.limits.to_json())

    write_export(path, source, make, ".tflite", quantize, sample, tolerance)


def _check_bert(config: dict) -> None:
    """Refuses what the graph below does not compute."""
    if config["model_type"] != "bert" or config.get("pad_token_id"):
        raise ValueError(
            "`encoder` must be a BERT with padding as token 0 to be exported to LiteRT. Received: "
            f"a {config['model_type']} with padding as token {config.get('pad_token_id')}. Use "
            "export_onnx."
        )


def _convert(function, variables, quantize, directory) -> bytes:
    import tensorflow as tf

    module = tf.Module()
    module.function, module.held = function, variables
    # Through a SavedModel, as the converter does itself. But if that fails, on a full disk for
    # example, the converter goes on and writes a file that does not name its inputs.
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-", suffix=".part") as saved:
        try:
            tf.saved_model.save(module, saved, function.get_concrete_function())
        except tf.errors.OpError as error:
            raise OSError(f"{saved!r} could not be written: {error.message}") from error
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:  # ConverterError, and what stages before it raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"The model cannot be converted to LiteRT: {lines[0][:500]}"
            ) from error


def _with_expanded_masks(function):
    """The same function with constants, and with axes added as the converter supports it.

    `mask[:, None, None]` is a strided slice that adds axes, which the converter refuses if shapes
    are unknown.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    graph = frozen.graph.as_graph_def()
    values = {node.name: node for node in graph.node if node.op == "Const"}
    for node in list(graph.node):
        # Not needed, and the converter would look up gradients by these names.
        node.attr.pop("_gradient_op_type", None)
        if node.op == "StridedSlice" and node.attr["new_axis_mask"].i:
            _expand_instead(graph, node, values)
    outputs = [tensor.name for tensor in frozen.outputs]
    names = [tensor.name.partition(":")[0] for tensor in frozen.inputs]

    def imported(token_ids, segment_ids):
        inputs = dict(zip(names, (token_ids, segment_ids)))
        (output,) = tf.graph_util.import_graph_def(
            graph, input_map=inputs, return_elements=outputs, name=""
        )
        return {"output": output}

    return tf.function(imported, input_signature=function.input_signature, autograph=False)


def _expand_instead(graph, node, values) -> None:
    """Replaces a slice that only adds axes by an ExpandDims for each of them."""
    import tensorflow as tf

    source, begin, *_ = node.input
    if begin not in values:
        return
    count = tf.make_ndarray(values[begin].attr["value"].tensor).size
    mask = {name: attr.i for name, attr in node.attr.items() if name.endswith("_mask")}
    added = [axis for axis in range(count) if mask["new_axis_mask"] >> axis & 1]
    whole = mask["begin_mask"] & mask["end_mask"] | mask["ellipsis_mask"] | mask["new_axis_mask"]
    if mask["shrink_axis_mask"] or whole != (1 << count) - 1:
        return
    if mask["ellipsis_mask"]:
        if mask["ellipsis_mask"] != 1 or len(added) != 1:
            return
        added = [added[0] - count]  # `mask[..., None]`: counted from the end
    name, dtype = node.name, node.attr["T"].type
    node.Clear()  # the last ExpandDims takes its name
    for number, axis in enumerate(added):
        expand = node if axis == added[-1] else graph.node.add()
        expand.name = name if axis == added[-1] else f"{name}/expand_{number}"
        at = graph.node.add(op="Const", name=f"{name}/axis_{number}")
        at.attr["dtype"].type = tf.int32.as_datatype_enum
        at.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(axis, tf.int32))
        expand.op = "ExpandDims"
        expand.input.extend([source, at.name])
        expand.attr["T"].type, expand.attr["Tdim"].type = dtype, tf.int32.as_datatype_enum
        source = expand.name


def bert_function(bert: Description):
    """BERT at inference in TensorFlow's operations, as an argument of `traced`, and its variables.

    Variables instead of constants, which TensorFlow copies repeatedly.
    """
    import tensorflow as tf

    config = bert.config
    hidden_size, heads = config["hidden_size"], config["num_attention_heads"]
    size = hidden_size // heads
    tensors = {
        # Queries are scaled in advance.
        name: tf.Variable(value * np.float32(size**-0.5) if "/self/query/" in name else value)
        for name, value in bert.tensors.items()
    }
    head = [
        (tf.Variable(dense.kernel), tf.Variable(dense.bias), dense.activation)
        for dense in bert.dense_layers
    ]
    activations = {
        "gelu": tf.nn.gelu,
        "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
        "swish": lambda x: x * tf.sigmoid(x),  # `tf.nn.silu` adds a custom gradient
        "relu": tf.nn.relu,
        "tanh": tf.tanh,
        "softmax": tf.nn.softmax,
        "sigmoid": tf.sigmoid,
        "linear": lambda x: x,
    }

    def dense(x, name):
        return tf.matmul(x, tensors[f"{name}/kernel"]) + tensors[f"{name}/bias"]

    def norm(x, name):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
        x = centred * tf.math.rsqrt(variance + np.float32(config["layer_norm_eps"]))
        return x * tensors[f"{name}/gamma"] + tensors[f"{name}/beta"]

    def layer(x, y, bias, name):
        """A layer at the positions in `y`, which attend to those in `x`."""
        batch_size = tf.shape(x)[0]

        def split(x):
            return tf.reshape(x, [batch_size, -1, heads, size])

        inner = f"{name}/attention/self"
        q = tf.transpose(split(dense(y, f"{inner}/query")), [0, 2, 1, 3])
        k = tf.transpose(split(dense(x, f"{inner}/key")), [0, 2, 3, 1])
        v = tf.transpose(split(dense(x, f"{inner}/value")), [0, 2, 1, 3])
        mixed = tf.matmul(tf.nn.softmax(tf.matmul(q, k) + bias), v)
        mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [batch_size, -1, hidden_size])
        y = norm(
            y + dense(mixed, f"{name}/attention/output/dense"), f"{name}/attention/output/LayerNorm"
        )
        z = activations[config["hidden_act"]](dense(y, f"{name}/intermediate/dense"))
        return norm(y + dense(z, f"{name}/output/dense"), f"{name}/output/LayerNorm")

    def function(token_ids, segment_ids):
        words, segments, positions = (
            tf.convert_to_tensor(tensors[f"bert/embeddings/{name}_embeddings"])
            for name in ("word", "token_type", "position")
        )
        batch_size, length = tf.unstack(tf.shape(token_ids))
        x = tf.gather(words, token_ids) + tf.gather(segments, segment_ids) + positions[:length]
        x = norm(x, "bert/embeddings/LayerNorm")
        if f"{_PROJECTION}/kernel" in tensors:
            x = dense(x, _PROJECTION)
        # Not minus infinity: text that is all padding would give NaN, as in bert4keras.
        bias = tf.cast(tf.equal(token_ids, 0), tf.float32) * np.float32(-1e9)
        bias = tf.reshape(bias, [batch_size, 1, 1, length])
        for index in range(config["num_hidden_layers"]):
            last = index == config["num_hidden_layers"] - 1
            y = x[:, :1] if last and bert.first_token else x
            x = layer(x, y, bias, f"bert/encoder/layer_{index}")
        if bert.first_token:
            x = x[:, 0]
        for kernel, bias, activation in head:
            x = activations[activation](tf.matmul(x, kernel) + bias)
        return {"output": x}

    held = [*tensors.values(), *(variable for dense in head for variable in dense[:2])]
    return function, held
