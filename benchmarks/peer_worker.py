"""One model in one of the programs that users choose between, in a process of its own.

It runs in the Python that has the program, this checkout's or the one of `--peers`, and needs
NumPy besides. `inference.py --peers` starts it; `FORMS` says what there is and how it is set up.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (16, 64, 128)
MIXTURE = "SST-2"  # a length of its own: the texts of dev, in the order of the file
BATCH_SIZES = (1, 32)
NUM_ANSWERS = 128  # texts whose answers are compared
NUM_SAMPLES = 128  # texts that OpenVINO calibrates int8 on


# Programs. `load(directory, threads)` returns two functions: what makes the program's own input of
# token ids and mask, which is not timed, and what makes logits of that (ours: probabilities).


def hugging_face_inputs(token_ids, mask):
    ids, mask = token_ids.astype("int64"), mask.astype("int64")
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}


def load_ours(name, directory, threads):
    sys.path.insert(0, str(ROOT))
    from bert_of_theseus.deploy import open_runtime

    runtime = open_runtime(directory / name, num_threads=threads)

    def encode(token_ids, mask):
        return token_ids, 0 * token_ids, mask

    return encode, lambda batch: runtime(*batch)


def torch_model(directory):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(directory).eval()


def load_torch(compiled, directory, threads):
    import torch

    torch.set_num_threads(threads)
    model = torch_model(directory)
    if compiled:
        model = torch.compile(model)

    def encode(token_ids, mask):
        arrays = hugging_face_inputs(token_ids, mask)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def run(batch):
        with torch.inference_mode():
            return model(**batch).logits.numpy()

    return encode, run


def make_optimum(directory):
    """The export, optimized by ONNX Runtime's transformer optimizer, without approximations."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig

    model = ORTModelForSequenceClassification.from_pretrained(directory, export=True)
    optimizer = ORTOptimizer.from_pretrained(model)
    optimizer.optimize(
        save_dir=directory / "optimum",
        optimization_config=AutoOptimizationConfig.O2(),
        file_suffix="",
    )


def make_optimum_int8(directory):
    """Dynamic int8 with the settings of `AutoQuantizationConfig.avx512_vnni(is_static=False)`.

    Optimum's own quantizer refuses its optimizer's files: it does not tell ONNX Runtime the types.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not (directory / "optimum" / "model.onnx").exists():
        make_optimum(directory)
    (directory / "optimum-int8").mkdir(exist_ok=True)
    quantize_dynamic(
        directory / "optimum" / "model.onnx",
        directory / "optimum-int8" / "model.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1, "WeightSymmetric": True},
    )


def load_onnx(name, directory, threads):
    """In ONNX Runtime itself, which costs less than Optimum's class around it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(directory / name / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return hugging_face_inputs, lambda batch: session.run(["logits"], batch)[0]


def make_openvino(quantize, directory):
    import openvino
    import torch

    model = torch_model(directory)
    ids = torch.ones((1, 8), dtype=torch.int64)
    example = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    model = openvino.convert_model(model, example_input=example)
    if quantize == "weights":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    elif quantize:
        import nncf

        texts = Texts(directory.parent)
        length = MIXTURE if MIXTURE in texts.lengths else 64
        batches = [hugging_face_inputs(*texts.batch(length, 1, n)) for n in range(NUM_SAMPLES)]
        model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=NUM_SAMPLES,
        )
    name = "-".join(filter(None, ("openvino", quantize)))
    openvino.save_model(model, directory / name / "model.xml", compress_to_fp16=False)


def load_openvino(name, precision, directory, threads):
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    request = core.compile_model(directory / name / "model.xml", "CPU", options)
    request = request.create_infer_request()
    return hugging_face_inputs, lambda batch: request.infer(batch, share_inputs=True)[0]


def make_ctranslate2(directory):
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(directory)).convert(str(directory / "ctranslate2"), force=True)


def load_ctranslate2(compute_type, directory, threads):
    """The encoder with its pooler; CTranslate2 has no classifier, so NumPy adds the last layer."""
    import ctranslate2
    import numpy as np

    encoder = ctranslate2.Encoder(
        str(directory / "ctranslate2"),
        device="cpu",
        compute_type=compute_type,
        inter_threads=1,
        intra_threads=threads,
    )
    kernel, bias = (read_tensor(directory, f"classifier.{part}") for part in ("weight", "bias"))

    def encode(token_ids, mask):
        ids = [row[: int(length)].tolist() for row, length in zip(token_ids, mask.sum(1))]
        return ids, [[0] * len(row) for row in ids]

    def run(batch):
        ids, segments = batch
        pooled = encoder.forward_batch(ids, token_type_ids=segments).pooler_output
        return np.asarray(pooled) @ kernel.T + bias

    return encode, run


def read_tensor(directory, name):
    """A float32 tensor of model.safetensors, without the package for it."""
    import numpy as np

    with open(directory / "model.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        return np.frombuffer(file.read(end - begin), "float32").reshape(entry["shape"])


class Form(NamedTuple):
    """A model in a program.

    Attributes:
        precision: `"float32"`, `"int8"`, or another that has no bar.
        path: Its file or folder, in the model's.
        make: What makes that of the model's folder; `None` for files of this package.
        load: What loads it.
    """

    precision: str
    path: str
    make: Callable | None
    load: Callable


OURS = "bert_of_theseus"


def ours(precision, path):
    return Form(precision, path, None, partial(load_ours, path))


def transformers(compiled):
    return Form("float32", "model.safetensors", None, partial(load_torch, compiled))


def optimum(precision, path, make):
    return Form(precision, path, make, partial(load_onnx, path))


def open_vino(precision, quantize, hint=None):
    path = "-".join(filter(None, ("openvino", quantize)))
    load = partial(load_openvino, path, hint)
    return Form(precision, path, partial(make_openvino, quantize), load)


def ctranslate2(precision):
    return Form(precision, "ctranslate2", make_ctranslate2, partial(load_ctranslate2, precision))


FORMS = {
    f"{OURS}, ONNX Runtime": ours("float32", "model.onnx"),
    f"{OURS}, LiteRT": ours("float32", "model.tflite"),
    "transformers": transformers(False),
    "transformers, torch.compile": transformers(True),
    "Optimum, ONNX Runtime": optimum("float32", "optimum", make_optimum),
    "OpenVINO": open_vino("float32", "", "f32"),
    "CTranslate2": ctranslate2("float32"),
    "OpenVINO, own choice of precision": open_vino("bfloat16 where the CPU has it", ""),
    f"{OURS}, ONNX Runtime int8": ours("int8", "model.int8.onnx"),
    f"{OURS}, LiteRT int8": ours("int8", "model.int8.tflite"),
    "Optimum, ONNX Runtime int8": optimum("int8", "optimum-int8", make_optimum_int8),
    "OpenVINO, int8 weights": open_vino("int8", "weights"),
    "OpenVINO, calibrated int8": open_vino("int8", "int8"),
    "CTranslate2 int8": ctranslate2("int8"),
}


def is_ours(form):
    return form.startswith(OURS)


def runs_here(form):
    """Whether it runs in this checkout's Python, which has the latest transformers."""
    return is_ours(form) or form.startswith("transformers")


# The texts.


class Texts:
    """Batches by length and size, the same for every program."""

    def __init__(self, directory):
        import numpy as np

        rng = np.random.default_rng(0)
        self.ids = {n: rng.integers(1000, 30522, (128, n)).astype("int32") for n in LENGTHS}
        path = Path(directory) / "dev.npz"
        if path.exists():
            self.ids[MIXTURE] = np.load(path)["token_ids"].astype("int32")
        self.lengths = list(self.ids)

    def batch(self, length, size, index):
        """Token ids, padded to the longest, and mask of batch number `index`."""
        token_ids = self.ids[length]
        start = index % (len(token_ids) // size) * size
        token_ids = token_ids[start : start + size]
        mask = (token_ids != 0).astype("int32")
        longest = int(mask.sum(1).max())
        return token_ids[:, :longest].copy(), mask[:, :longest].copy()


# The worker.


class Model:
    """Answers the parent's commands."""

    def __init__(self, form, directory, threads, started):
        self.encode, self.run = FORMS[form].load(directory, threads)
        self.started = started
        self.texts = Texts(directory.parent)

    def first(self):
        """Seconds from the start of the process to the first answer, in wall and CPU time."""
        self.run(self.encode(*self.texts.batch(LENGTHS[0], 1, 0)))
        return time.time() - self.started, time.process_time()

    def answers(self):
        """The outputs for texts, in batches of 32, after each shape of the cells has been run.

        They are probabilities of ours and logits of the peers, as each computes them.
        """
        for length in self.texts.lengths:
            for size in BATCH_SIZES:
                for index in range(2):
                    self.run(self.encode(*self.texts.batch(length, size, index)))
        length = self.texts.lengths[-1]
        numbers = range(min(NUM_ANSWERS, len(self.texts.ids[length])) // 32)
        batches = [self.encode(*self.texts.batch(length, 32, n)) for n in numbers]
        return [row.tolist() for batch in batches for row in self.run(batch)]

    def times(self, length, size, start, calls):
        """CPU and wall seconds of each call."""
        batches = [self.encode(*self.texts.batch(length, size, start + n)) for n in range(calls)]
        self.run(batches[0])
        seconds = []
        for batch in batches:
            before = time.process_time(), time.perf_counter()
            self.run(batch)
            after = time.process_time(), time.perf_counter()
            seconds.append([b - a for a, b in zip(before, after)])
        return seconds

    def peak(self):
        """Largest resident size so far, in MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions(names):
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def main(arguments):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stderr, not among the replies
    if "versions" in arguments:
        replies.write(json.dumps(versions(arguments["versions"])) + "\n")
        return
    form, directory = arguments["form"], Path(arguments["directory"])
    if arguments.get("make"):
        FORMS[form].make(directory)
        return
    model = Model(form, directory, arguments["threads"], arguments["started"])
    for line in sys.stdin:
        command, *rest = json.loads(line)
        replies.write(json.dumps(getattr(model, command)(*rest)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
