"""This package beside the programs that users would pick instead: `inference.py --peers`.

Every program answers the same batches of the same model in turn, each in a process of its own.
`peer_worker.py` says how each is set up, `README.md` how it is measured.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peer_worker import BATCH_SIZES, FORMS, LENGTHS, MIXTURE, is_ours, runs_here
from speed import markdown, number, percentile

WORKER = Path(__file__).with_name("peer_worker.py")
DEPTHS = {"MiniLM": (3,), "BERT-base": (3, 6, 12)}
CALLS = {"MiniLM": {1: 10, 32: 2}, "BERT-base": {1: 3, 32: 1}}  # of each cell in a round
PACKAGES = {  # where they run: this Python, or that of the peers
    True: ("onnxruntime", "ai-edge-litert", "tensorflow", "transformers", "torch"),
    False: ("optimum", "optimum-onnx", "transformers", "onnxruntime", "openvino", "nncf",
            "ctranslate2"),
}  # fmt: skip
PAUSE = 0.3  # seconds between turns, in which waiting threads stop spinning
BARS = (  # precision, batch size (or any), our best form's time over the best peer's
    ("float32", None, 0.8),
    ("int8", 1, 0.6),
    ("int8", 32, 0.8),
)


def python_of(args, form):
    return sys.executable if runs_here(form) else str(args.peers)


def environment(args):
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": str(args.threads),
        # What PyTorch advises for inference on CPUs; and its start is that without a cache.
        "TORCHINDUCTOR_FREEZING": "1",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }


def command(python, **arguments):
    return [python, str(WORKER), json.dumps(arguments)]


def make(args, directory) -> dict:
    """The forms that are there, once the missing files are made, and why others are not."""
    missing = {}
    for form, (_, path, maker, _) in FORMS.items():
        if (directory / path).exists() or maker is None:
            continue
        print(f"making {directory / path}", file=sys.stderr, flush=True)
        done = subprocess.run(
            command(python_of(args, form), form=form, directory=str(directory), make=True),
            env=environment(args),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            missing[form] = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"{form} is left out: {missing[form]}", file=sys.stderr, flush=True)
    return missing


class Record:
    """The figures of one model, in a file after each round, so that a stopped run goes on.

    Args:
        directory: The folder of the file.
        family, depth: The model.
        system: The machine, the threads and the versions, in words. Figures of another are refused.
    """

    def __init__(self, directory, family, depth, system):
        self.family, self.depth = family, depth
        self.path = directory / f"peers-{family}-{depth}.json"
        self.found = {"system": system, "forms": {}, "missing": {}, "rounds": []}
        if self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))
        if self.found["system"] != system:
            sys.exit(
                f"error: {self.path} has the figures of another run ({self.found['system']}). "
                "Give another --output-dir."
            )

    @property
    def forms(self):
        return self.found["forms"]

    def save(self):
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found) + "\n", encoding="utf-8")
        part.replace(self.path)

    def calls(self, form, cell, clock=1):
        """Milliseconds of each call in CPU time (`clock=0`) or wall time (1)."""
        return [1e3 * call[clock] for turn in self.found["rounds"] for call in turn[form][cell]]

    def ratio(self, form, other, cell, clock=1):
        """Time over the other's: the median over the rounds."""
        return statistics.median(
            sum(call[clock] for call in turn[form][cell])
            / sum(call[clock] for call in turn[other][cell])
            for turn in self.found["rounds"]
        )

    @property
    def cells(self):
        return list(next(iter(self.found["rounds"][0].values())))

    def best(self, precision, ours, cell, clock=1):
        forms = [
            form
            for form in self.forms
            if FORMS[form].precision == precision and is_ours(form) == ours
        ]
        return min(forms, key=lambda form: statistics.median(self.calls(form, cell, clock)))


def name_of(length, size):
    return f"{size} × {length}"


def measure(args, record, worker, progress):
    """Fills in the record. `worker(command, **environment)` starts a process to be asked."""
    directory = args.output_dir / f"{record.family}-{record.depth}"
    record.found["missing"].update(make(args, directory))
    with ExitStack() as stack:
        workers = {}
        for form in FORMS:
            if form in record.found["missing"]:
                continue
            line = command(
                python_of(args, form),
                form=form,
                directory=str(directory),
                threads=args.threads,
                started=time.time(),
            )
            workers[form] = stack.enter_context(closing(worker(line, environment(args))))
            try:
                start = workers[form].ask("first")
                answers = workers[form].ask("answers")
            except SystemExit as error:
                if record.found["rounds"]:  # the rounds before had it
                    raise
                reason = (str(error).strip().splitlines() or ["no output"])[-2:]
                record.found["missing"][form] = " ".join(reason)
                print(f"{form} is left out: {error}", file=sys.stderr, flush=True)
                del workers[form]
                continue
            figures = record.forms.setdefault(form, {})
            figures.update({"answers": answers, "peak": workers[form].ask("peak")})
            figures.setdefault("start", start)
            progress.update()
            time.sleep(PAUSE)
        lengths = [*LENGTHS, *[MIXTURE] * (args.output_dir / "dev.npz").exists()]
        for index in range(len(record.found["rounds"]), args.rounds):
            turn = {}
            for form, process in workers.items():
                turn[form] = {}
                for size in BATCH_SIZES:
                    calls = 1 if args.tiny else CALLS[record.family][size]
                    for length in lengths:
                        turn[form][name_of(length, size)] = process.ask(
                            "times", length, size, index * calls, calls
                        )
                time.sleep(PAUSE)
                progress.update()
            record.found["rounds"].append(turn)
            record.save()
        for form, process in workers.items():
            record.forms[form]["peak"] = process.ask("peak")
        record.save()


def probabilities(record, form):
    """Those of the answers: ours are probabilities, the others' are logits."""
    rows = record.forms[form]["answers"]
    if is_ours(form):
        return rows
    powers = [[math.exp(x - max(row)) for x in row] for row in rows]
    return [[x / sum(row) for x in row] for row in powers]


def agreement(record, form):
    """Share of labels that are the model's in transformers, and the largest difference."""
    ours, theirs = (probabilities(record, name) for name in (form, "transformers"))
    same = statistics.mean(a.index(max(a)) == b.index(max(b)) for a, b in zip(ours, theirs))
    return 100 * same, max(abs(x - y) for a, b in zip(ours, theirs) for x, y in zip(a, b))


def table(record):
    """A row for each form: wall time (CPU time) of a cell, then what does not depend on it."""
    cells = record.cells
    header = ["", *cells, "start s", "peak MiB", "same label %", "largest difference"]
    rows = []
    for form in FORMS:
        if form in record.found["missing"]:
            rows.append([form, *["–"] * (len(header) - 1)])
            continue
        row = [form]
        for cell in cells:
            wall, cpu = (statistics.median(record.calls(form, cell, clock)) for clock in (1, 0))
            tail = percentile(record.calls(form, cell), 0.99)
            row.append(f"{short(wall)} / {short(tail)} / {short(cpu)}")
        figures = record.forms[form]
        row += [number(figures["start"][0], 1), number(figures["peak"], 0)]
        if "transformers" in record.forms:
            same, difference = agreement(record, form)
            row += [number(same, 1), f"{difference:.1g}"]
        else:
            row += ["–", "–"]
        rows.append(row)
    return markdown(header, rows)


def short(milliseconds):
    """Three digits."""
    return number(milliseconds, 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0)


def bars(record):
    """`(precision, cell, limit, our best form, the best peer, ratios of wall and CPU time)`."""
    rows = []
    for precision, only, limit in BARS:
        for cell in record.cells:
            if only not in (None, int(cell.split()[0])):
                continue
            try:
                ours, theirs = (record.best(precision, whose, cell) for whose in (True, False))
            except ValueError:  # no form is there
                continue
            values = [record.ratio(ours, theirs, cell, clock) for clock in (1, 0)]
            rows.append((precision, cell, limit, ours, theirs, *values))
    return rows


def bar_table(record):
    header = ["", "cell", "our best", "best peer", "wall time", "CPU time", "bar"]
    lines = [
        [precision, cell, ours, theirs, f"{wall:.2f}", f"{cpu:.2f}",
         f"{limit} {'PASS' if wall <= limit else 'FAIL'}"]
        for precision, cell, limit, ours, theirs, wall, cpu in bars(record)
    ]  # fmt: skip
    return markdown(header, lines)


def versions(args):
    """What runs in this Python, and in the peers'."""
    lines = []
    for here, packages in PACKAGES.items():
        python = sys.executable if here else str(args.peers)
        done = subprocess.run(
            command(python, versions=packages), capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        lines.append(", ".join(f"{name} {found[name]}" for name in packages if found[name]))
    return f"Ours and transformers: {lines[0]}. Other peers: {lines[1]}."


def show(record):
    rounds = record.found["rounds"]
    if not rounds:
        return
    print(
        f"\n{record.family}, {record.depth} layers, {len(rounds)} rounds; batch × tokens: "
        f"p50 / p99 / CPU ms\n\n{table(record)}\n"
    )
    for form, reason in record.found["missing"].items():
        print(f"{form} is not there: {reason}\n")
    print(bar_table(record), flush=True)


def compare(args, worker, system):
    """The whole run: for each model the table and the bars, printed once they are there.

    Args:
        args: The arguments of `inference.py`. `peers` is the Python that has the peers.
        worker: The class of the workers.
        system: The machine, in words.
    """
    from tqdm import tqdm

    system = f"{system.rstrip(', ')}, {args.threads} threads. {versions(args)}"
    print(system, flush=True)
    records = [
        Record(args.output_dir, family, depth, system)
        for family in args.families
        for depth in (DEPTHS[family] if not args.tiny else (1,))
    ]
    for record in records:
        left = len(FORMS) * (1 + args.rounds - len(record.found["rounds"]))
        if len(record.found["rounds"]) < args.rounds:
            with tqdm(total=left, file=sys.stderr, desc=record.path.stem) as progress:
                try:
                    measure(args, record, worker, progress)
                except KeyboardInterrupt:
                    show(record)
                    raise
        show(record)
    if args.json:
        found = {
            "machine": system,
            "models": [[r.family, r.depth, r.found] for r in records],
            "bars": [[r.family, r.depth, *row] for r in records for row in bars(r)],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
