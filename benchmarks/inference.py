#!/usr/bin/env python
"""Cost of inference: predecessor and successors in Keras, LiteRT and ONNX Runtime.

Latency, texts per second, size of the file, peak memory, time to the first answer and accuracy on
SST-2, as one Markdown table for each family of models, and a table of the project's bars.
`benchmarks/README.md` describes how everything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from speed import clock, machine, markdown, number, percentile  # noqa: E402

EXAMPLES = """\
examples:
  python benchmarks/inference.py --data-dir SST-2     # all; models are trained only once
  python benchmarks/inference.py --families BERT-base --rounds 2
  python benchmarks/inference.py --tiny               # a trial run; the figures mean nothing
"""

FAMILIES = {  # name: numbers of layers, the predecessor's first
    "MiniLM": (6, 3, 2),
    "BERT-base": (12, 6, 3),
}
TINY = {"MiniLM": (2, 1), "BERT-base": (4, 2, 1)}
BASE = {  # config of BERT-base; MiniLM's comes with its weights
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
SMALL = {**BASE, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
PREDICT, COMPILED = "Keras predict", "Keras compiled call"
FILES = {  # what runs: its file in the model's folder
    PREDICT: "model.safetensors",
    COMPILED: "model.safetensors",
    "LiteRT float32": "model.tflite",
    "LiteRT float16": "model.float16.tflite",
    "LiteRT int8": "model.int8.tflite",
    "ONNX Runtime float32": "model.onnx",
    "ONNX Runtime int8": "model.int8.onnx",
}
RUNTIMES = ("LiteRT", "ONNX")  # compared with Keras
BATCH_SIZES = (1, 32)
CALLS = {  # family: number of calls per batch size in a round
    "MiniLM": {1: 20, 32: 4},
    "BERT-base": {1: 5, 32: 1},
}
BERT_BASE_LENGTH = 128
KERAS = {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"}


# Making the models.


def prepare(args) -> None:
    """Trains the models or draws random ones, and exports them, unless they exist already."""
    import bert_of_theseus.bert4keras  # noqa: F401  before any Keras
    from bert_of_theseus.checkpoints import load_pretrained
    from bert_of_theseus.deploy import export_litert, export_onnx

    if args.data_dir and not (args.output_dir / "dev.npz").exists():
        save_texts(args)
    for family in args.families:
        for depth in depths_of(args, family):
            directory = model_dir(args, family, depth)
            if not (directory / "model.safetensors").exists():
                if family == "MiniLM" and args.data_dir and not args.peers:
                    train(args)
                else:
                    draw(args, family, depth, directory)
            names = (FILES[kind] for kind in kinds_of(args))
            missing = [name for name in names if not (directory / name).exists()]
            if missing:
                transformer, classifier, _ = load_pretrained(directory)
            for name in missing:
                export = export_onnx if name.endswith(".onnx") else export_litert
                quantize = name.split(".")[1] if name.count(".") == 2 else None
                export(directory / name, transformer, classifier, quantize=quantize)
                print(f"exported {directory / name}", file=sys.stderr, flush=True)


def draw(args, family, depth, directory) -> None:
    """A model with random weights, or MiniLM's where they are asked for, and BERT's own head."""
    from quality import minilm

    from bert_of_theseus.backend import keras
    from bert_of_theseus.checkpoints import build_bert, load_bert, save_pretrained
    from bert_of_theseus.heads import pooler_classification_head

    keras.utils.set_random_seed(depth)
    vocab = minilm() / "vocab.txt" if args.peers else None  # some of them ask for a tokenizer
    if family == "MiniLM" and args.peers and not args.tiny:
        transformer = load_bert(minilm(), num_hidden_layers=depth)
    else:
        config = SMALL if args.tiny else BASE
        if family == "MiniLM" and not args.tiny:
            config = {**BASE, "hidden_size": 384, "intermediate_size": 1536}
        transformer = build_bert(config, num_hidden_layers=depth)
    head = pooler_classification_head(transformer.hidden_size, 2)
    save_pretrained(directory, transformer, head, vocab=vocab)


def train(args) -> None:
    """MiniLM, fine-tuned on a part of SST-2 and compressed by the recipe."""
    from quality import minilm

    from bert_of_theseus import LinearReplacement, Stage, build_successor_model, compress
    from bert_of_theseus.backend import keras
    from bert_of_theseus.checkpoints import build_bert, load_bert, save_pretrained
    from bert_of_theseus.data import Batches, Tokenizer, load_sst2
    from bert_of_theseus.heads import pooler_classification_head
    from bert_of_theseus.training import fit

    vocab = minilm() / "vocab.txt"
    task = load_sst2(args.data_dir, validation_fraction=0.2, limit=args.rows)
    tokenizer = Tokenizer(vocab)
    encoded = [tokenizer.encode(getattr(task, n), 64) for n in ("train", "validation")]
    data = Batches(encoded[0], 32), Batches(encoded[1], 64, shuffle=False)

    def bert(depth, prefix):
        if args.tiny:
            return build_bert(SMALL, num_hidden_layers=depth, prefix=prefix)
        return load_bert(minilm(), num_hidden_layers=depth, prefix=prefix)

    keras.utils.set_random_seed(0)
    first, *others = depths_of(args, "MiniLM")
    predecessor = bert(first, "Predecessor-")
    head = pooler_classification_head(predecessor.hidden_size, 2)
    runs = args.output_dir / "runs"
    options = {"seed": 0, "verbose": 0}
    model = build_successor_model(predecessor, head)
    stage = Stage(args.epochs, 1e-4)
    fit(model, *data, stage, directory=runs / f"predecessor-{first}", **options)

    def save(depth, transformer, head):
        directory = model_dir(args, "MiniLM", depth)
        save_pretrained(directory, transformer, head, vocab=vocab, labels=task.labels)

    save(first, predecessor, head)
    for depth in others:
        successor = bert(depth, f"Successor-{depth}-")
        result = compress(
            predecessor,
            successor,
            head,
            *data,
            directory=runs / f"successor-{depth}",
            predecessor_stage=None,
            warm_start_stage=None,  # which would take longer than all the rest
            theseus_stage=Stage(args.epochs, 2e-4),
            successor_stage=Stage(1, 1e-4),
            schedule=LinearReplacement(0.3, fraction=0.75),
            latency=False,
            **options,
        )
        save(depth, successor, result.classifier)


def save_texts(args) -> None:
    """SST-2's dev set as token ids."""
    import numpy as np
    from quality import minilm

    from bert_of_theseus.data import Tokenizer, load_sst2

    task = load_sst2(args.data_dir, validation_fraction=0.2, limit=args.rows)
    encoded = Tokenizer(minilm() / "vocab.txt").encode(task.dev, 64)
    lengths = np.array([len(ids) for ids in encoded.token_ids])
    token_ids = np.zeros((len(lengths), lengths.max()), "int32")
    for row, ids in zip(token_ids, encoded.token_ids):
        row[: len(ids)] = ids
    args.output_dir.mkdir(parents=True, exist_ok=True)
    np.savez(args.output_dir / "dev.npz", token_ids=token_ids, labels=encoded.labels)


def depths_of(args, family):
    if args.peers:
        from peers import DEPTHS

        return (1,) if args.tiny else DEPTHS[family]
    return (TINY if args.tiny else FAMILIES)[family]


def kinds_of(args):
    if args.peers:
        return [kind for kind in FILES if "float16" not in kind]
    return [kind for kind in FILES if kind.startswith("Keras") or kind.split()[0] in args.runtimes]


def model_dir(args, family, depth) -> Path:
    return args.output_dir / f"{family}-{depth}"


# The texts.


class Texts:
    """The batches, the same for every model.

    MiniLM gets SST-2's dev set, the batches of 32 sorted by length as in `Predictor`. BERT-base
    gets random texts of one length, as does MiniLM if SST-2 is not given.
    """

    def __init__(self, output_dir, family):
        import numpy as np

        path = Path(output_dir) / "dev.npz"
        self.labels = None
        rng = np.random.default_rng(0)
        if family == "MiniLM" and path.exists():
            data = np.load(path)
            order = np.argsort((data["token_ids"] != 0).sum(1), kind="stable")
            self.token_ids, self.labels = data["token_ids"][order], data["labels"][order]
        else:
            length = BERT_BASE_LENGTH if family == "BERT-base" else 24
            self.token_ids = rng.integers(1000, BASE["vocab_size"], (256, length)).astype("int32")
        self.orders = {1: rng.permutation(len(self.token_ids))}
        number = -(-len(self.token_ids) // 32)
        self.orders[32] = rng.permutation(number)

    def batch(self, size, index):
        """Batch number `index` of a size, truncated to its longest text."""
        order = self.orders[size]
        return self.cut(size, int(order[index % len(order)]))

    def cut(self, size, place):
        token_ids = self.token_ids[place * size : (place + 1) * size]
        return token_ids[:, : int((token_ids != 0).sum(1).max())]


# The worker: a process with the models of one runtime.


def work(arguments) -> None:
    """Answers commands, one JSON line each, until the parent closes the pipe."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stderr, not among the replies
    started = float(arguments["started"])
    models, texts = {}, None
    for line in sys.stdin:
        command, kind, family, depth, *rest = json.loads(line)
        texts = texts or Texts(arguments["output_dir"], family)
        key = kind, family, depth
        if key not in models:
            models[key] = load(kind, Path(arguments["output_dir"]) / f"{family}-{depth}")
        reply = {"first": first, "times": times, "accuracy": accuracy}[command](
            models[key], texts, started, *rest
        )
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def load(kind, directory):
    """A function of token and segment ids."""
    if kind not in (PREDICT, COMPILED):
        from bert_of_theseus.deploy.runtimes import open_runtime

        return open_runtime(directory / FILES[kind])
    import bert_of_theseus.bert4keras  # noqa: F401  before any Keras

    # isort: split
    import tensorflow as tf

    from bert_of_theseus.backend import keras
    from bert_of_theseus.checkpoints import load_pretrained

    transformer, classifier, _ = load_pretrained(directory)
    model = keras.Model(transformer.inputs, classifier(transformer.output))
    if kind == PREDICT:
        return lambda *inputs: model.predict(list(inputs), batch_size=len(inputs[0]), verbose=0)
    spec = tf.TensorSpec([None, None], tf.int32)
    call = tf.function(lambda *inputs: model(list(inputs), training=False), [spec, spec])
    return lambda *inputs: call(*map(tf.constant, inputs)).numpy()


def first(model, texts, started):
    """Time from the start of the process to the first answer, and its peak memory."""
    answer(model, texts.batch(1, 0))
    seconds = time.time() - started, time.process_time()
    answer(model, texts.batch(max(BATCH_SIZES), 0))
    return [*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def times(model, texts, started, size, start, calls):
    """CPU and wall seconds of each call, and its number of texts."""
    answer(model, texts.batch(1, start))  # warms the caches, which others have used
    seconds = []
    for index in range(start, start + calls):
        batch = texts.batch(size, index)
        before = clock()
        answer(model, batch)
        seconds.append([*(b - a for a, b in zip(before, clock())), len(batch)])
    return seconds


def accuracy(model, texts, started):
    """Accuracy on dev in per cent; `None` without labels."""
    if texts.labels is None:
        return None
    batches = [texts.cut(32, place) for place in sorted(texts.orders[32])]
    found = [row.argmax() for batch in batches for row in answer(model, batch)]
    return 100 * statistics.mean(int(a == b) for a, b in zip(found, texts.labels))


def answer(model, token_ids):
    return model(token_ids, 0 * token_ids)


class Worker:
    """A worker process; `close` ends it."""

    @classmethod
    def of(cls, output_dir):
        """One that has models of this script."""
        environment = {
            **os.environ,
            **KERAS,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        arguments = json.dumps({"output_dir": str(output_dir), "started": time.time()})
        return cls([sys.executable, __file__, "--worker", arguments], environment)

    def __init__(self, command, environment):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  shown if it fails
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )

    def ask(self, *command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer is handled below
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{self.log.read()}\nerror: a worker ended with status {status}.")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()


# The parent: runs the workers in turn and makes the tables.


def measure(args, progress) -> dict:
    """All figures, by `(family, depth, kind)`."""
    found = {}
    for family in args.families:
        keys = [
            (family, depth, kind) for depth in depths_of(args, family) for kind in kinds_of(args)
        ]
        progress.set_description(f"{family}: starts")
        for family, depth, kind in keys:
            with closing(Worker.of(args.output_dir)) as worker:
                figures = worker.ask("first", kind, family, depth)
            figures = dict(zip(("start", "start_cpu", "peak"), figures))
            path = model_dir(args, family, depth) / FILES[kind]
            figures["megabytes"] = path.stat().st_size / 1e6
            found[family, depth, kind] = {**figures, "rounds": []}
            progress.update()
        with ExitStack() as stack:
            # One process per runtime, not per model, so that all of BERT-base's fit in memory.
            workers = {
                runtime: stack.enter_context(closing(Worker.of(args.output_dir)))
                for runtime in dict.fromkeys(kind.split()[0] for kind in kinds_of(args))
            }
            progress.set_description(f"{family}: accuracy")
            for family, depth, kind in keys:
                worker = workers[kind.split()[0]]
                for size in BATCH_SIZES:
                    worker.ask("times", kind, family, depth, size, 0, 1)  # traces, allocates
                found[family, depth, kind]["accuracy"] = worker.ask("accuracy", kind, family, depth)
                progress.update()
            progress.set_description(f"{family}: calls")
            for number in range(args.rounds):
                for family, depth, kind in keys:
                    seconds = {}
                    for size, calls in calls_of(args, family).items():
                        seconds[size] = workers[kind.split()[0]].ask(
                            "times", kind, family, depth, size, number * calls, calls
                        )
                    found[family, depth, kind]["rounds"].append(seconds)
                    progress.update()
    return found


def calls_of(args, family):
    return {1: 2, 32: 1} if args.tiny else CALLS[family]


def calls(figures, size, clock=1):
    """Milliseconds of each call at a batch size, in CPU time (`clock=0`) or wall time (1)."""
    return [1e3 * call[clock] for seconds in figures["rounds"] for call in seconds[size]]


def ratio(figures, others, size, clock=1):
    """Speed-up over the others on the same texts: the median over the rounds."""
    return statistics.median(
        sum(call[clock] for call in theirs[size]) / sum(call[clock] for call in ours[size])
        for ours, theirs in zip(figures["rounds"], others["rounds"])
    )


def rate(figures, size):
    every = [call for seconds in figures["rounds"] for call in seconds[size]]
    return sum(call[2] for call in every) / sum(call[1] for call in every)


def table(args, found, family):
    header = ["layers", "runtime"]
    for size in BATCH_SIZES:
        header += [f"batch {size}: p50 ms", "p99 ms", "CPU ms", "texts/s", "× predict"]
    header += ["file MB", "peak MiB", "start s", "dev %", "lost"]
    depths = depths_of(args, family)
    rows = []
    for depth in depths:
        for kind in kinds_of(args):
            figures = found[family, depth, kind]
            row = [depth, kind]
            for size in BATCH_SIZES:
                wall = calls(figures, size)
                row += [
                    number(statistics.median(wall), 1),
                    number(percentile(wall, 0.99), 1),
                    number(statistics.median(calls(figures, size, 0)), 1),
                    number(rate(figures, size), 0),
                    number(ratio(figures, found[family, depths[0], PREDICT], size), 1),
                ]
            row += [
                number(figures["megabytes"], 1),
                number(figures["peak"], 0),
                number(figures["start"], 1),
                number(figures["accuracy"]),
                number(lost(found, family, depth, kind)),
            ]
            rows.append(row)
    return markdown(header, rows)


def lost(found, family, depth, kind):
    """Points of accuracy that an exported file loses against the Keras model."""
    own, model = (found[family, depth, k]["accuracy"] for k in (kind, COMPILED))
    return None if own is None else max(model - own, 0.0) + 0.0


def bars(args, found):
    """`(name, limit, wall time, CPU time, whether it is met)` of each bar."""
    rows = []
    if "BERT-base" in args.families:
        first, *others = depths_of(args, "BERT-base")
        for depth, least in zip(others, (1.94, 3.66)):
            for kind in kinds_of(args):
                for size in BATCH_SIZES:
                    ours, theirs = (found["BERT-base", d, kind] for d in (depth, first))
                    value = ratio(ours, theirs, size)
                    cpu = ratio(ours, theirs, size, 0)
                    name = f"BERT-base, {first} to {depth} layers, {kind}, batch {size}"
                    rows.append((name, f"at least {least}", value, cpu, value >= least))
    if "MiniLM" in args.families:
        first, depth, *_ = depths_of(args, "MiniLM")
        forms = [kind for kind in kinds_of(args) if kind not in (PREDICT, COMPILED)]
        exact = [k for k in forms if (lost(found, "MiniLM", depth, k) or 0) <= 0.5]
        for size, least in zip(BATCH_SIZES, (6, 3)):
            theirs = found["MiniLM", first, PREDICT]
            best = max(exact or forms, key=lambda k: ratio(found["MiniLM", depth, k], theirs, size))
            ours = found["MiniLM", depth, best]
            value, cpu = ratio(ours, theirs, size), ratio(ours, theirs, size, 0)
            name = f"MiniLM, {first} layers in {PREDICT} to {depth} in {best}, batch {size}"
            rows.append((name, f"at least {least}", value, cpu, value >= least))
            points = lost(found, "MiniLM", depth, best)
            if points is not None:
                name = f"MiniLM, points that {depth} layers lose in {best}"
                rows.append((name, "at most 0.5", points, None, points <= 0.5))
    return rows


def bar_table(rows):
    lines = [
        [name, limit, f"{value:.2f} {'PASS' if met else 'FAIL'}", number(cpu)]
        for name, limit, value, cpu, met in dict.fromkeys(rows)
    ]
    return markdown(["bar", "", "wall time", "CPU time"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="GLUE's SST-2; without it, random weights")
    add("--output-dir", type=Path, metavar="DIR", help="default runs/inference, or -tiny")
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="default all")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="default all")
    add("--rounds", type=int, metavar="N", help="default 5; --tiny 2")
    add("--rows", type=int, default=3200, metavar="N", help="training texts (default %(default)s)")
    add("--epochs", type=int, default=2, metavar="N", help="of both trainings (default 2)")
    add("--tiny", action="store_true", help="very small models, for a trial run")
    add("--prepare", action="store_true", help="only make the models and their files")
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--peers", type=Path, metavar="PYTHON", help="compare with other programs, in this Python")
    add("--threads", type=int, metavar="N", help="beside --peers; default one for each core")
    add("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(json.loads(args.worker))
    for name in ("rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"argument --{name}: expected at least 1, received {value}")
    args.rounds = args.rounds or (2 if args.tiny else 5)
    name = "peers" if args.peers else "inference"
    args.output_dir = args.output_dir or Path("runs", name + "-tiny" * args.tiny)
    if args.prepare:
        return prepare(args)

    from tqdm import tqdm

    # In a separate process, to keep TensorFlow's threads and memory out of the measurements.
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), "--prepare"]
    environment = {**os.environ, **KERAS, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if subprocess.run(list(map(str, command)), env=environment, check=False).returncode:
        sys.exit("error: the models could not be made; the output above says why.")
    if args.peers:
        from peers import compare

        from bert_of_theseus.deploy.runtimes import available_cores

        args.threads = args.threads or available_cores()
        return compare(args, Worker, machine([]))
    num_models = sum(len(depths_of(args, family)) * len(kinds_of(args)) for family in args.families)
    with tqdm(total=(2 + args.rounds) * num_models, file=sys.stderr) as progress:
        found = measure(args, progress)
    print(f"{machine(['bert4keras'])}, {versions()}.\n")
    for family in args.families:
        print(f"{family}:\n\n{table(args, found, family)}\n")
    rows = bars(args, found)
    print(bar_table(rows))
    if args.json:
        record = {
            "machine": f"{machine(['bert4keras'])}, {versions()}",
            "figures": [[*key, figures] for key, figures in found.items()],
            "bars": rows,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def versions():
    from importlib import metadata

    found = []
    for name in ("onnxruntime", "ai-edge-litert"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}: LiteRT is TensorFlow's own")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
