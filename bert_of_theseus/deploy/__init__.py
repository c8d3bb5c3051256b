"""Fast inference: ONNX and LiteRT files, one interface to run them, and texts in, labels out.

`export_onnx` and `export_litert` write what `save_pretrained` takes, and `export_folder` what it
wrote. `open_runtime` runs the files without Keras. In the model's folder, under the names of this
example, `Predictor.load` finds them, and transformers.js and Optimum find the ONNX files.

Example:

    from bert_of_theseus.deploy import Predictor, export_litert, export_onnx, open_runtime

    export_onnx("successor/onnx/model.onnx", successor, classifier)
    export_onnx("successor/onnx/model_quantized.onnx", successor, classifier, quantize="int8")
    export_litert("successor/model.tflite", successor, classifier)
    export_litert("successor/model.float16.tflite", successor, classifier, quantize="float16")
    export_litert("successor/model.int8.tflite", successor, classifier, quantize="int8")
    probabilities = open_runtime("successor/onnx/model_quantized.onnx")(token_ids, segment_ids)
    labels = Predictor.load("successor").predict(["A joy to watch."])
"""

from .base import Runtime
from .folder import export_folder
from .litert import export_litert
from .onnx import export_onnx
from .predictor import Predictor
from .runtimes import open_runtime

__all__ = [
    "Predictor",
    "Runtime",
    "export_folder",
    "export_litert",
    "export_onnx",
    "open_runtime",
]
