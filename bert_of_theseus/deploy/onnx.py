"""Export to ONNX: encoders in ONNX Runtime's fused operations, other models by tf2onnx."""

from __future__ import annotations

import os

from ..checkpoints.describe import Description
from ..validation import one_of
from .base import EXPORT_EXTRA, Limits, import_package
from .deberta import DebertaGraph
from .export import read_source, write_export
from .graph import EncoderGraph
from .traced import quiet_converters, trace_to_onnx


def export_onnx(
    path: str | os.PathLike,
    encoder,
    classifier=None,
    *,
    quantize: str | None = None,
    sample=None,
    tolerance: float | None = None,
) -> None:
    """Writes a model as an `.onnx` file, for ONNX Runtime and transformers.js.

    An encoder of a known family (BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA, ALBERT,
    DeBERTa-v3), from bert4keras or KerasHub, with one of the heads of `bert_of_theseus.heads`,
    `span_head` excepted, is written on any backend, in ONNX Runtime's fused operations (attention,
    embedding and normalization, bias and GELU). If the head looks at the first token only, the last
    layer computes only that. Inputs and output have the names that Hugging Face's exports have:
    `input_ids`, `attention_mask` and, where the model distinguishes segments, `token_type_ids`,
    int64 `(batch_size, sequence_length)` of any size, and `logits`, float32, before the head's
    activation; without a head `last_hidden_state`. `open_runtime` applies the activation.

    Any other Keras model on TensorFlow is converted by tf2onnx, with the inputs and the output of
    `export_litert`. Weights and results are float32, whatever precision the model was trained in.

    Args:
        path: The file, `*.onnx`. Others look for `onnx/model.onnx` and `onnx/model_quantized.onnx`
            in the model's folder. Otherwise as in `export_litert`.
        encoder, classifier: As in `save_pretrained`, or as in `export_litert`.
        quantize: How weights are stored: `None` for float32, or `"int8"`, in which matrices are
            also multiplied (dynamic quantization: activations are rounded per batch, in
            `open_runtime` per group of like lengths).
        sample: `(token_ids, segment_ids)` or `(token_ids, segment_ids, attention_mask)` to compare
            the file's output with the model's on. Defaults to random tokens, with padding, in two
            shapes.
        tolerance: Largest difference between the two, relative to the largest output (at least
            1). Defaults to 1e-4, and to 0.25 for int8; to 0.02 or 0.1 for a model that computes in
            float16 or bfloat16, which rounds more than the file.

    Raises:
        TypeError: if an argument has the wrong type.
        ImportError: if onnx, onnxruntime or tf2onnx is needed and not installed.
        ValueError: if the model has other inputs or an operation that ONNX lacks, is larger than
            2 GB, or the outputs differ.
        OSError: if the file could not be written.

    Example:

        export_onnx("successor/onnx/model.onnx", successor, classifier)
    """
    one_of("quantize", quantize, (None, "int8"))
    onnx = import_package("onnx", EXPORT_EXTRA)
    import_package("onnxruntime", EXPORT_EXTRA)
    source = read_source(encoder, classifier)

    def make(scratch):
        limits = source.limits
        if source.description is None:
            model = trace_to_onnx(source)
        else:
            model = build_graph(source.description)
            head = source.description.head
            limits = limits._replace(activation=head and head.activation)
        onnx.helper.set_model_props(model, {Limits.KEY: limits.to_json()})
        if quantize:
            _quantize(model, scratch)
        else:
            onnx.save(model, scratch)

    write_export(path, source, make, ".onnx", quantize, sample, tolerance)


def build_graph(description: Description):
    """The ONNX model of an encoder and its head.

    Args:
        description: The canonical form. Where it has a head, the output is `logits`, else
            `last_hidden_state`, or `pooler_output` where the encoder ends in a pooler.

    Returns:
        An `onnx.ModelProto` from `input_ids`, `attention_mask` and, where the model distinguishes
        segments, `token_type_ids`: int64, `(batch_size, sequence_length)`, as in Hugging Face's
        exports.

    Raises:
        ValueError: if the model is too large for one file.
    """
    if description.config["model_type"] == "deberta-v2":
        return DebertaGraph(description).model()
    return EncoderGraph(description).model()


def _quantize(model, path):
    from onnxruntime.quantization import quantize_dynamic

    with quiet_converters():
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            # Types are not inferred through the fused operations; treat unknown ones as float.
            extra_options={"DefaultTensorType": 1},
        )
