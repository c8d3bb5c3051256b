"""Models out, for fast inference: LiteRT (TensorFlow Lite) and ONNX files.

`export_litert` and `export_onnx` take what `save_pretrained` takes. `runtimes.open_runtime` loads
the files again, without Keras. Put beside what `save_pretrained` wrote, under the names of this
example, they are what `Predictor.load` looks for.

Example:

    from bert_of_theseus import export_litert, export_onnx, open_runtime

    export_onnx("successor/model.onnx", successor, classifier)
    export_onnx("successor/model.int8.onnx", successor, classifier, quantize="int8")
    export_litert("successor/model.tflite", successor, classifier)
    export_litert("successor/model.float16.tflite", successor, classifier, quantize="float16")
    export_litert("successor/model.int8.tflite", successor, classifier, quantize="int8")
    probabilities = open_runtime("successor/model.int8.onnx")(token_ids, segment_ids)
"""

from bert_of_theseus.export.litert import export_litert
from bert_of_theseus.export.onnx import export_onnx

__all__ = ["export_litert", "export_onnx"]
