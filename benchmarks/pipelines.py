#!/usr/bin/env python
"""Texts to labels, end to end: `predict` beside the pipelines of `transformers` and Optimum.

Each program is one command that reads the same lines from a file and writes a label for each. They
take turns. `README.md` says how it is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_worker import OURS, runs_here
from peers import command as worker_command
from peers import environment, versions
from speed import machine, markdown, number

EXAMPLES = """\
examples:
  # The models of `inference.py --peers`, and SST-2's texts:
  cut -f 1 SST-2/train.tsv | tail -n +2 > lines.txt
  python benchmarks/pipelines.py runs/peers/MiniLM-3 --lines lines.txt --peers runs/venv/bin/python

  # A successor and its predecessor, without Optimum:
  python benchmarks/pipelines.py successor predecessor --lines lines.txt
"""

TRANSFORMERS, OPTIMUM = "transformers' pipeline", "Optimum's pipeline"
EXPORT = "Optimum, ONNX Runtime"  # the form of `peer_worker.py` whose file Optimum's pipeline runs
BATCH_SIZES = 1, 32  # of the pipelines; `predict` has one of its own
FEW = 1_000  # lines of a first run, whose time is that of the start
LEAST = 2  # times as many texts a second as Optimum's pipeline: the bar


class Program(NamedTuple):
    """A program with its settings, and the folder of the model."""

    name: str
    folder: Path
    kind: str  # of the file, or the batch size

    @property
    def precision(self):
        return "int8" if self.kind.startswith("int8") else "float32"


def programs(folders, has_peers) -> list[Program]:
    """`predict` with each ONNX file of the first folder, and the pipelines on all."""
    from bert_of_theseus.deploy.folder import FILES

    there = [
        kind
        for kind in ("onnx", "int8.onnx")
        if any((folders[0] / name).is_file() for name in FILES[kind])
    ]
    found = [Program(f"{OURS} predict", folders[0], kind) for kind in there]
    names = [TRANSFORMERS, OPTIMUM][: 1 + has_peers]
    sizes = [f"batch {size}" for size in BATCH_SIZES]
    return found + [Program(*parts) for parts in itertools.product(names, folders, sizes)]


def command(program, args, lines, answers) -> list[str]:
    """What labels the file `lines` into the file `answers`."""
    if program.name.startswith(OURS):
        options = ["--kind", program.kind, "--threads", args.threads, "--output", answers]
        return [sys.executable, "-m", OURS, "predict", program.folder, lines, *options]
    python = sys.executable if runs_here(program.name) else args.peers
    size = int(program.kind.split()[-1])
    arguments = [program.name, str(program.folder), size, args.threads, str(lines), str(answers)]
    return [python, __file__, "--worker", json.dumps(arguments)]


def work(name, folder, batch_size, threads, lines, answers):
    """Labels a file by a pipeline, as its documentation advises for many texts."""
    import torch
    from transformers import AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    model = folder
    if name == OPTIMUM:
        import onnxruntime
        from optimum.onnxruntime import ORTModelForSequenceClassification

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        model = ORTModelForSequenceClassification.from_pretrained(
            Path(folder) / "optimum", session_options=options
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    with open(lines, encoding="utf-8") as source, open(answers, "w", encoding="utf-8") as target:
        texts = (line.rstrip("\n") for line in source)
        for answer in classify(texts, batch_size=batch_size, truncation=True):
            target.write(json.dumps(answer) + "\n")


class Figures(NamedTuple):
    """What a command took.

    Attributes:
        wall, cpu: Seconds.
        labels: The label of each line.
    """

    wall: float
    cpu: float
    labels: list[str]


def run(program, args, lines, directory) -> Figures:
    path, answers = directory / "lines.txt", directory / "answers.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    answers.unlink(missing_ok=True)
    line = [str(part) for part in command(program, args, path, answers)]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(line, env=environment(args), capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"error: {' '.join(line)}\n{done.stderr.strip()[-2000:]}")
    cpu = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
    found = [json.loads(answer)["label"] for answer in answers.read_text("utf-8").splitlines()]
    if len(found) != len(lines):
        sys.exit(f"error: {program.name} gave {len(found)} labels for {len(lines)} lines")
    return Figures(wall, cpu, found)


def measure(args, texts) -> list[dict]:
    """A row for each program: the rate without the start, the start, and the labels it gave."""
    from tqdm import tqdm

    rows = [{"program": p, "rounds": []} for p in programs(args.folders, args.peers is not None)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=args.rounds * len(rows), file=sys.stderr) as progress,
    ):
        for _ in range(args.rounds):
            for row in rows:
                is_ours = row["program"].name.startswith(OURS)
                count = args.count if is_ours else args.peer_count
                few, many = (
                    run(row["program"], args, texts(size), Path(scratch))
                    for size in (args.few, args.few + count)
                )
                row["labels"] = many.labels[: args.few]
                row["rounds"].append(
                    {
                        "texts": count,
                        "start": few.wall,
                        "per_s": count / (many.wall - few.wall),
                        "per_cpu_s": count / (many.cpu - few.cpu),
                    }
                )
                progress.update()
    return rows


def middle(row, key):
    return statistics.median(turn[key] for turn in row["rounds"])


def table(rows) -> str:
    """Texts a second of each program, and the labels that are those of transformers' model."""
    header = ["", "model", "", "texts / s", "texts / CPU s", f"s for the first {FEW:,}", "same %"]
    lines = []
    for row in rows:
        program = row["program"]
        model = next(
            peer["labels"]
            for peer in rows
            if peer["program"].name == TRANSFORMERS and peer["program"].folder == program.folder
        )
        same = [label == other for label, other in zip(row["labels"], model)]
        lines.append(
            [program.name, program.folder.name, program.kind]
            + [number(middle(row, key), 0) for key in ("per_s", "per_cpu_s")]
            + [number(middle(row, "start"), 1), number(100 * statistics.mean(same), 1)]
        )
    return markdown(header, lines)


def bar_table(rows) -> str:
    """Our float32 and int8 beside the better of Optimum's on the same model; medians of ratios."""
    folder = rows[0]["program"].folder
    peers = [
        row for row in rows if row["program"].name == OPTIMUM and row["program"].folder == folder
    ]
    if not peers:
        return ""
    best = max(peers, key=lambda row: middle(row, "per_s"))
    lines = []
    for row in rows:
        if not row["program"].name.startswith(OURS):
            continue
        ratios = [
            statistics.median(a[key] / b[key] for a, b in zip(row["rounds"], best["rounds"]))
            for key in ("per_s", "per_cpu_s")
        ]
        lines.append(
            [f"{row['program'].precision} / {OPTIMUM}, {best['program'].kind}"]
            + [f"{ratio:.2f}" for ratio in ratios]
            + [f"{LEAST} {'PASS' if ratios[0] >= LEAST else 'FAIL'}"]
        )
    return markdown(["texts a second", "wall time", "CPU time", "at least"], lines)


class Timed:
    """An object whose methods add what they take to `spent`, in CPU seconds of all threads."""

    def __init__(self, wrapped, spent):
        self.wrapped, self.spent = wrapped, spent

    def __getattr__(self, name):
        found = getattr(self.wrapped, name)
        if not callable(found):
            return found

        def call(*arguments, **options):
            begin = time.process_time()
            try:
                return found(*arguments, **options)
            finally:
                self.spent.append(time.process_time() - begin)

        return call


def share_table(args, texts) -> str:
    """How much of the CPU time of labelling is the model's and the tokenizers library's."""
    from bert_of_theseus import Predictor

    lines = []
    for program in programs(args.folders, has_peers=False):
        if not program.name.startswith(OURS):
            continue
        predictor = Predictor.load(program.folder, program.kind, num_threads=args.threads)
        predictor.predict(texts(args.few))
        runtime, tokenizer, model, library = predictor._runtime, predictor.tokenizer, [], []
        runtime._session = Timed(runtime._session, model)
        for name in ("_plain", "_tokenizer"):
            setattr(tokenizer, name, Timed(getattr(tokenizer, name), library))
        begin = time.process_time()
        for _ in predictor.stream(texts(args.peer_count)):
            pass
        whole = time.process_time() - begin
        parts = [100 * sum(part) / whole for part in (model, library)]
        lines.append([program.kind, *(number(share, 1) for share in (*parts, sum(parts)))])
    return markdown(["% of the CPU time", "model", "tokenizers", "both"], lines)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR",
        help="models; `predict` runs the first one's ONNX files")  # fmt: skip
    add("--lines", type=Path, required=True, metavar="FILE", help="texts, one a line; repeated")
    add("--peers", type=Path, metavar="PYTHON", help="Python that has Optimum")
    add("--count", type=int, default=200_000, metavar="N", help="texts for `predict`")
    add("--peer-count", type=int, default=10_000, metavar="N", help="texts for the pipelines")
    add("--rounds", type=int, default=3, metavar="N")
    add("--threads", type=int, metavar="N", help="default one for each core")
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--tiny", action="store_true", help="few texts, to try it")
    args = parser.parse_args(argv)
    for name in ("count", "peer_count", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            parser.error(f"argument --{option}: expected at least 1, received {value}")
    args.few = FEW
    if args.tiny:
        args.few, args.count, args.peer_count, args.rounds = 8, 64, 64, 1
    return args


def main(argv=None) -> int:
    args = parse(argv)
    from bert_of_theseus.deploy.runtimes import available_cores

    args.threads = args.threads or available_cores()
    read = args.lines.read_text("utf-8").splitlines()
    lines = [line for line in read if line.strip()]
    if not lines:
        sys.exit(f"error: {args.lines} must hold at least one text")
    for folder in args.folders if args.peers else ():
        if not (folder / "optimum" / "model.onnx").exists():
            line = worker_command(args.peers, form=EXPORT, directory=str(folder), make=True)
            subprocess.run(line, env=environment(args), check=True)

    def texts(size):
        return list(itertools.islice(itertools.cycle(lines), size))

    rows, shares = measure(args, texts), share_table(args, texts)
    system = f"{machine([]).rstrip(', ')}, {args.threads} threads."
    system += f" {versions(args)}" if args.peers else ""
    tables = filter(None, (table(rows), bar_table(rows), shares))
    print(system, *tables, sep="\n\n", flush=True)
    if args.json:
        found = []
        for row in rows:
            program = row["program"]._replace(folder=row["program"].folder.name)
            found.append({**program._asdict(), "rounds": row["rounds"]})
        record = {"machine": system, "programs": found}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*json.loads(sys.argv[2]))
    else:
        sys.exit(main())
