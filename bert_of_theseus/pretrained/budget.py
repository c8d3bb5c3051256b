"""A budget in place of a depth: how much of the score is kept, and how quick an answer is.

`search` tries depths: it takes functions that train a successor and that time one, so it knows
nothing of models. `time_answers` and `Remembered` make the second.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..files import read_json, write_json
from ..table import markdown_table
from ..validation import number, positive_integer
from .folder import OutputFolder

_COLUMNS = {
    "layers": ("layers", "d"),
    "milliseconds": ("ms per text", ".2f"),
    "score": ("validation", ".4f"),
    "kept": ("kept", ".2%"),
    "chosen": ("", "s"),
}


@dataclasses.dataclass
class Choice:
    """The depth that a search found, and why.

    Attributes:
        num_hidden_layers: Integer, the depth; where none meets the budget the one that is nearest.
        met: Boolean, whether the budget is met.
        reason: String, a sentence or two.
        rows: A dict per depth: `layers`; `milliseconds`, if there is a `max_ms`; `score` and
            `kept`, its share of the predecessor's, where a successor was trained; `chosen`.
        timed: String, how the milliseconds were measured; `None` if they were not.
    """

    num_hidden_layers: int
    met: bool
    reason: str
    rows: list[dict]
    timed: str | None = None

    @property
    def table(self) -> str:
        """The depths as a Markdown table."""
        rows = [{**row, "chosen": "chosen" if row["chosen"] else ""} for row in self.rows]
        known = {key for row in rows for key, value in row.items() if value is not None}
        return markdown_table(rows, {key: how for key, how in _COLUMNS.items() if key in known})


def check_budget(keep: float | None = None, max_ms: float | None = None) -> None:
    """Raises a `TypeError` or `ValueError` if a limit makes no sense."""
    if keep is not None:
        number("keep", keep, "(0, 1]", "the share of the score, such as 0.99")
    if max_ms is not None:
        number("max_ms", max_ms, "(0, inf)")


def search(
    depths: Sequence[int],
    train_depth: Callable[[int], float],
    *,
    keep: float | None = None,
    max_ms: float | None = None,
    full_score: float | None = None,
    measure_ms: Callable[[int], float] | None = None,
) -> Choice:
    """Finds the depth that meets a budget, training few successors.

    With `keep`, it is the shallowest successor that keeps this share of the predecessor's score.
    It is found by bisection, as if deeper successors never scored lower: of the depths that are
    tried, the next shallower one does not keep enough. With `max_ms`, it is the deepest that
    answers in that time; all depths are timed, which needs no training, and one is trained. With
    both, it is the shallowest that keeps enough among those that are quick enough.

    Args:
        depths: The numbers of layers to choose from.
        train_depth: Function of a depth that trains a successor and returns its score, higher being
            better. It is called once for each depth that is tried.
        keep: Float in (0, 1]. Defaults to `None`, any score.
        max_ms: Float, milliseconds. Defaults to `None`, any time.
        full_score: Float, the predecessor's score, for `keep`.
        measure_ms: Function of a depth that returns the milliseconds of an answer, for `max_ms`.

    Returns:
        A `Choice`.

    Raises:
        TypeError, ValueError: if an argument is invalid, neither limit is given, or the
            predecessor's score is not above 0, so that it has no shares.
    """
    check_budget(keep, max_ms)
    if keep is None and max_ms is None:
        raise ValueError("One of `keep` and `max_ms` must be given. Received: neither")
    if keep is not None and not full_score > 0:
        raise ValueError(
            "`keep` is a share of the predecessor's score on the validation texts, which must be "
            f"above 0. Received: {full_score!r}"
        )
    tried = _Search(sorted(set(depths)), train_depth, keep, max_ms, full_score)
    quick = tried.depths
    if max_ms is not None:
        quick = tried.quick_enough(measure_ms)
    if not quick:
        return tried.too_slow()
    if keep is None:
        tried.train(quick[-1])
        return tried.chosen(quick[-1])
    enough = tried.shallowest(quick)
    return tried.keeps_too_little(quick) if enough is None else tried.chosen(enough)


class _Search:
    """The depths of one search, with what is known of each."""

    def __init__(self, depths, train_depth, keep, max_ms, full_score):
        self.depths = [positive_integer("depths", depth) for depth in depths]
        if not self.depths:
            raise ValueError("`depths` must hold one depth at least. Received: none")
        self.train_depth, self.keep, self.max_ms = train_depth, keep, max_ms
        self.full_score = full_score
        self.ms, self.scores = {}, {}

    def quick_enough(self, measure_ms):
        self.ms = {depth: float(measure_ms(depth)) for depth in self.depths}
        return [depth for depth in self.depths if self.ms[depth] <= self.max_ms]

    def train(self, depth):
        self.scores[depth] = float(self.train_depth(depth))

    def shallowest(self, depths):
        """The shallowest that keeps enough, if any."""
        low, high = 0, len(depths)  # those from `high` on keep enough, those below `low` do not
        while low < high:
            middle = (low + high) // 2
            self.train(depths[middle])
            # Rounding may take a share of 99 of 100 right answers below 0.99.
            if self.share(depths[middle]) >= self.keep - 1e-9:
                high = middle
            else:
                low = middle + 1
        return depths[high] if high < len(depths) else None

    def share(self, depth):
        """Of the predecessor's score; `None` where it is unknown."""
        if depth not in self.scores or not self.full_score or not self.full_score > 0:
            return None
        share = self.scores[depth] / self.full_score
        return -math.inf if math.isnan(share) else share

    # What is said of it.

    def chosen(self, depth):
        said = []
        if self.keep is not None:
            below = max((d for d in self.scores if d < depth), default=None)
            less = f"; {self.kept(below)}" if below else ", and there was no shallower one to try"
            said.append(f"{self.kept(depth)} ({100 * self.keep:.4g} % were asked for){less}.")
        if self.max_ms is not None:
            above = min((d for d in self.depths if d > depth), default=None)
            more = f"; {self.taken(above)}" if above else ", and there was no deeper one to try"
            more = more if self.keep is None else ""
            said.append(f"{self.taken(depth)} ({self.max_ms:.4g} ms were allowed){more}.")
        return self.choice(depth, True, " ".join(said) + self.unsorted())

    def too_slow(self):
        nearest = min(self.depths, key=lambda depth: (self.ms[depth], depth))
        short = self.ms[nearest] - self.max_ms
        return self.choice(
            nearest,
            False,
            f"No successor answers in {self.max_ms:.4g} ms. The quickest: {self.taken(nearest)}, "
            f"{short:.2f} ms too long.",
        )

    def keeps_too_little(self, depths):
        nearest = max(self.scores, key=lambda depth: (self.share(depth), -depth))
        short = self.keep - self.share(nearest)
        quick = "" if self.max_ms is None else f" that answers in {self.max_ms:.4g} ms"
        said = f"No successor{quick} keeps {100 * self.keep:.4g} % of the score. The nearest: "
        said += f"{self.kept(nearest)}, {100 * short:.2f} points too few"
        slower = min((d for d in self.depths if d > depths[-1]), default=None)
        if self.max_ms is not None:
            said += f"; {self.taken(nearest)}"
            said += f", {self.taken(slower)}" if slower else ""
        return self.choice(nearest, False, f"{said}.{self.unsorted()}")

    def unsorted(self):
        scores = [self.scores[depth] for depth in sorted(self.scores)]
        if scores == sorted(scores):
            return ""
        return " A deeper successor scored lower than a shallower one: the scores are uncertain."

    def kept(self, depth):
        return f"{_layers(depth)} kept {100 * self.share(depth):.2f} %"

    def taken(self, depth):
        return f"{_layers(depth)} took {self.ms[depth]:.2f} ms"

    def choice(self, depth, met, reason):
        rows = [
            {
                "layers": each,
                "milliseconds": self.ms.get(each),
                "score": self.scores.get(each),
                "kept": self.share(each),
                "chosen": met and each == depth,
            }
            for each in self.depths
        ]
        return Choice(depth, met, reason, rows)


def _layers(count):
    return "1 layer" if count == 1 else f"{count} layers"


def choose_depth(trainer, folder: OutputFolder, *, keep=None, max_ms=None, say=print):
    """`search` among the successors that a `Trainer` trains, each in a folder of its own.

    Whatever was trained or timed when a run was killed is not repeated.

    Args:
        trainer: `Trainer`.
        folder: `OutputFolder`, at work: for the runs and the times.
        keep, max_ms: As in `search`.
        say: Function of a string that tells the user what is found. Defaults to `print`.

    Returns:
        A `Choice`.
    """
    from ..measure import environment
    from ..training import evaluate

    validation = trainer.batches["validation"]
    full_score = None
    if keep is not None:
        full_score = evaluate(trainer.predecessor_model, validation, **trainer.options)
        say(f"The predecessor scores {full_score:.4f} on the validation texts.")

    def timed(depth):
        successor = trainer.new_successor(depth)
        timing = time_answers(successor, trainer.classifier, validation, folder.unfinished)
        say(f"{_layers(depth)}: {timing}.")
        return dataclasses.asdict(timing)

    def trained(depth):
        say(f"A successor of {_layers(depth)} is trained.")
        rows = trainer.train(depth, folder.run(depth)).result.rows
        return rows[-1]["score"]

    times = Remembered(folder.unfinished / "times.json", timed, environment())
    choice = search(
        range(1, trainer.inputs.checkpoint.config["num_hidden_layers"]),
        trained,
        keep=keep,
        max_ms=max_ms,
        full_score=full_score,
        measure_ms=lambda depth: times(depth)["milliseconds"],
    )
    if max_ms is not None:
        choice.timed = str(Timing(**times(choice.num_hidden_layers)))
    return choice


# Times.


@dataclasses.dataclass
class Timing:
    """How long an answer took.

    Attributes:
        milliseconds: Float: the quickest of some calls on each text, the median over the texts.
        slowest: Float, the same for the text that took longest.
        shortest, longest: Integers, the lengths of the texts, in tokens.
        count: Integer, the number of texts.
        calls: Integer, the number of calls on each.
        how: String, what was timed.
    """

    milliseconds: float
    slowest: float
    shortest: int
    longest: int
    count: int
    calls: int
    how: str

    def __str__(self):
        return (
            f"{self.milliseconds:.2f} ms: {self.how}, one text at a time; the median of "
            f"{self.count} validation texts of {self.shortest} to {self.longest} tokens, each "
            f"one's quickest of {self.calls} calls (the slowest text: {self.slowest:.2f} ms). "
            "Without the tokenizer"
        )


# Calls on each text, and the seconds after which no more than the fewest are made. Other processes
# hide a model's time the longer, the shorter it is.
_FEWEST, _MOST, _SECONDS = 5, 50, 2.0


def time_answers(encoder, classifier, batches, directory: str | os.PathLike, count=20) -> Timing:
    """Times a model's answers to single texts, as it is exported.

    Where onnx and onnxruntime are installed, a float32 ONNX file is timed in ONNX Runtime, with the
    threads that it has by default; otherwise the Keras model. Other processes only ever slow a call
    down, so each text's quickest call counts.

    Args:
        encoder, classifier: As in `deploy.export_onnx`. The weights do not matter.
        batches: `Batches` of real texts.
        directory: An existing folder, for the file while it is timed.
        count: Integer, the number of texts, evenly spread over all by length. Defaults to `20`.
    """
    alone = copy.copy(batches)
    alone.batch_size = alone.multiple = 1  # not padded
    alone.shuffle = False
    alone.set_epoch(0)
    places = np.linspace(0, len(alone) - 1, min(count, len(alone))).round().astype(int)
    texts = [alone[int(place)][0] for place in places]
    lengths = [_ids(inputs)[0].shape[1] for inputs in texts]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        from ..deploy import export_onnx, open_runtime

        # Its own folder, as files beside it would be listed with it.
        with tempfile.TemporaryDirectory(dir=directory, prefix="timed-") as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(path, encoder, classifier)
            runtime = open_runtime(path)
            seconds, calls = _quickest(lambda inputs: runtime(*_ids(inputs)), texts)
        how = "an ONNX file in ONNX Runtime"
    else:
        from ..backend import KERAS_ON_BACKEND
        from ..encoders import as_encoder

        model = as_encoder(encoder).model(classifier, name="timed")
        seconds, calls = _quickest(model.predict_on_batch, texts)
        how = f"{KERAS_ON_BACKEND}, as an ONNX file needs pip install 'bert-of-theseus[export]'"
    return Timing(
        1000 * statistics.median(seconds),
        1000 * max(seconds),
        min(lengths),
        max(lengths),
        len(texts),
        calls,
        how,
    )


def _quickest(call, texts):
    """Seconds of the quickest call on each text, and the number of calls."""
    for text in texts:  # the first calls compile
        call(text)
    seconds, begin = [math.inf] * len(texts), time.perf_counter()
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - begin > _SECONDS:
            return seconds, turn
        for index, text in enumerate(texts):
            start = time.perf_counter()
            call(text)
            seconds[index] = min(seconds[index], time.perf_counter() - start)
    return seconds, _MOST


def _ids(inputs):
    """Token ids, and segment ids where there are any."""
    if not isinstance(inputs, dict):
        return inputs
    return [inputs["token_ids"], inputs.get("segment_ids")]


class Remembered:
    """A function of a depth, whose results a JSON file keeps for a run that goes on.

    Args:
        path: The file.
        function: Function of an integer that returns what JSON holds.
        about: Dict of what the results depend on, the machine say: with another they are found
            anew. Defaults to `None`.
    """

    def __init__(self, path: str | os.PathLike, function: Callable, about: dict | None = None):
        self.path, self.function, self.about = Path(path), function, about or {}

    def __call__(self, depth: int):
        found = self.results
        if depth not in found:
            found[depth] = self.function(depth)
            results = {str(key): value for key, value in sorted(found.items())}
            write_json(self.path, {"about": self.about, "results": results})
        return found[depth]

    @property
    def results(self) -> dict:
        """What is known, by depth."""
        content = read_json(self.path) if self.path.is_file() else {}
        if content.get("about") != self.about:
            return {}
        return {int(depth): value for depth, value in content["results"].items()}
