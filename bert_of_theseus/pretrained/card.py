"""The model card, README.md of a compressed model: what it is, from what, and what was measured.

All of it is computed from the report and the folder; what is not known is left out. Needs no Keras.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from ..files import read_json, replace_file
from ..table import differences, report_table
from .budget import Choice
from .inputs import SETS

CARD = "README.md"
_PAPER = "https://arxiv.org/abs/2002.02925"
# By metric of a task: the Hub's name of it, and a reader's.
_METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "f1": ("f1", "F1"),
    "macro_f1": ("f1", "macro F1"),
    "micro_f1": ("f1", "micro F1"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
    "matthews": ("matthews_correlation", "Matthews' correlation"),
    "pearson": ("pearsonr", "Pearson's correlation"),
    "spearman": ("spearmanr", "Spearman's correlation"),
}
_FAMILIES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "albert": "ALBERT",
    "deberta-v2": "DeBERTa",
}
_KINDS = {
    "classification": "puts texts into classes",
    "multi-label": "gives texts any number of labels",
    "regression": "gives texts a number",
    "tagging": "tags the words of texts",
}
_SETS = {
    "train": "to train on",
    "unlabeled": "more to train on, without labels",
    "validation": "to choose the weights by",
    "test": "for the report alone",
}
_STAGES = {
    "warm_start": "warm start, by the predecessor's hidden states, without labels",
    "theseus": "Theseus stage",
    "successor": "fine-tuning after it",
}
_TAKEN_OVER = ("license", "license_name", "license_link", "language")


def card_facts(inputs, files: Mapping[str, str | os.PathLike | None]) -> dict:
    """What a card says of the predecessor and the texts, in JSON's types.

    Args:
        inputs: `Inputs`.
        files: The paths of the texts by `"train"`, `"validation"`, `"test"` and `"unlabeled"`, as
            far as they were given. The card has their names.
    """
    task, directory = inputs.task, Path(inputs.checkpoint.directory)
    return {
        "predecessor": {
            "name": directory.resolve().name,
            "hub_id": hub_id(directory),
            "layers": inputs.checkpoint.config["num_hidden_layers"],
            **base_metadata(directory),
        },
        "task": {"kind": inputs.kind, "metric": task.metric, "labels": list(task.labels)},
        "texts": {name: inputs.count(name) for name in SETS if inputs.count(name)},
        "files": {
            name: Path(path).absolute().name for name, path in files.items() if path is not None
        },
        "has_labels": inputs.has_labels,
        "pairs": any(
            example.second_text is not None
            for encoded in inputs.texts.values()
            for example in encoded.examples
        ),
        "max_length": inputs.max_length,
    }


def hub_id(directory: Path) -> str | None:
    """The name on the Hub of a model in the Hub's cache; `None` for any other folder."""
    for part in directory.absolute().parts:
        found = re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)", part)
        if found:
            return "/".join(found.groups())
    return None


def base_metadata(directory: Path) -> dict:
    """Licence and language as the card in `directory` states them, in YAML's plainest forms."""
    path = directory / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    front = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", text, re.DOTALL)
    found = {}
    word = r"[\"']?([\w.:/#-]+)[\"']?[ \t]*\n"
    for key in _TAKEN_OVER if front else ():
        one = re.search(rf"^{key}:[ \t]*{word}", front[1], re.MULTILINE)
        several = re.search(rf"^{key}:[ \t]*\n((?:[ \t]*-[ \t]+{word})+)", front[1], re.MULTILINE)
        if one:
            found[key] = one[1]
        elif several:
            found[key] = re.findall(rf"-[ \t]+{word}", several[1])
    return found


def write_card(directory: str | os.PathLike, report: Mapping, facts: Mapping) -> None:
    """Writes README.md into the folder of a compressed model.

    Args:
        directory: The folder, complete but for the card: which files are in it is said.
        report: Dict of `rows`, `notes` and `settings`, as in `Compressed`, and of `search`, a
            `Choice` as a dict, or `None`.
        facts: What `card_facts` returned.
    """
    directory = Path(directory)
    card = _Card(directory, report, facts)
    text = f"---\n{to_yaml(card.metadata())}---\n\n{card.text()}"
    replace_file(directory / CARD, lambda path: path.write_text(text, encoding="utf-8"))


class _Card:
    def __init__(self, directory, report, facts):
        self.name = directory.resolve().name
        self.config = read_json(directory / "config.json")
        self.rows, self.settings = report["rows"], report["settings"]
        self.search, self.notes = report.get("search"), report.get("notes", [])
        self.texts, self.files, self.task = facts["texts"], facts["files"], facts["task"]
        self.predecessor, self.facts = facts["predecessor"], facts
        self.agreement = not facts["has_labels"]
        self.metric = _METRICS[self.task["metric"]]
        self.has_onnx = (directory / "onnx" / "model.onnx").is_file()
        self.has_int8 = (directory / "onnx" / "model_quantized.onnx").is_file()
        kind = self.task["kind"]
        self.pipeline = "token-classification" if kind == "tagging" else "text-classification"

    # For the Hub.

    def metadata(self) -> dict:
        known = {key: self.predecessor[key] for key in _TAKEN_OVER if key in self.predecessor}
        tags = ["bert-of-theseus", "model-compression"]
        tags += ["onnx", "transformers.js"] if self.has_onnx else []
        base = self.predecessor["hub_id"]
        return {
            **known,
            "library_name": "transformers",
            **({"base_model": base} if base else {}),
            "pipeline_tag": self.pipeline,
            "tags": tags,
            # Agreement with another model is not to be compared with scores on labels.
            **({} if self.agreement else {"metrics": [self.metric[0]]}),
            **({} if self.agreement else {"model-index": [self._results()]}),
        }

    def _results(self):
        results = []
        for key, name in (("test_score", "test"), ("score", "validation")):
            if self.rows[-1].get(key) is not None:
                results.append(
                    {
                        "task": {"type": self.pipeline},
                        "dataset": {"type": "custom", "name": self._source(name), "split": name},
                        "metrics": [
                            {
                                "type": self.metric[0],
                                "name": self.metric[1],
                                "value": round(self.rows[-1][key], 6),
                            }
                        ],
                    }
                )
        return {"name": self.name, "results": results}

    def _source(self, name):
        return self.files[name] if name in self.files else f"a part of {self.files['train']}"

    # For readers.

    def text(self) -> str:
        parts = [f"# {_plain(self.name)}", self._what(), self._table(), "## Use", *self._use()]
        parts += ["## Labels", *self._labels()] if self.task["kind"] != "regression" else []
        parts += ["## How it was made", *self._made()]
        parts += ["## What was measured, and what was not", self._limits()]
        return "\n\n".join(parts) + "\n"

    def _what(self):
        before = _plain(self.predecessor["hub_id"] or self.predecessor["name"])
        depth = self.rows[-1]["layers"]
        return (
            f"A {_FAMILIES.get(self.config['model_type'], self.config['model_type'])} of "
            f"{_count(depth, 'layer')} that {_KINDS[self.task['kind']]}. It was compressed from "
            f"{before}, which has {_count(self.predecessor['layers'], 'layer')}, with "
            f"[BERT-of-Theseus]({_PAPER}): in training its layers took the place of its "
            "predecessor's, at random and more and more often."
        )

    def _table(self):
        lines = [report_table(self.rows, self.agreement), f"Scores: {self.metric[1]}."]
        if self.agreement:
            lines[1] += (
                " The texts had no labels. The predecessor's answers took their place, so scores "
                "say how far a model agrees with the predecessor, whose own are 1. How often "
                "either is right was not measured."
            )
        if self.rows[-1].get("kept") is not None:
            where = "test" if "test_score" in self.rows[0] else "validation"
            lines[1] += f" Kept is the share of the predecessor's score on the {where} texts."
        said = differences(self.rows, self.agreement)
        lines += [said] if said else []
        return "\n\n".join(lines)

    def _use(self):
        folder, pair = json.dumps(self.name, ensure_ascii=False), self.facts["pairs"]
        theirs = '{"text": "...", "text_pair": "..."}' if pair else '"..."'
        ours = '[("...", "...")]' if pair else '["..."]'
        more = ", top_k=None" if self.task["kind"] == "multi-label" else ""
        yield _python(
            "from transformers import pipeline",
            "",
            f"classify = pipeline({json.dumps(self.pipeline)}, model={folder})",
            f"classify({theirs}{more})",
        )
        quick = "the ONNX file, without PyTorch" if self.has_onnx else "Keras"
        yield f"Or with bert-of-theseus, which runs {quick}:"
        yield _python(
            "from bert_of_theseus import Predictor",
            "",
            f"Predictor.load({folder}).predict({ours})",
        )
        if self.has_onnx:
            files = "`onnx/model.onnx`" + (
                " and `onnx/model_quantized.onnx` (int8)" if self.has_int8 else ""
            )
            yield f"{files} are for ONNX Runtime and transformers.js, under the names of Optimum."

    def _labels(self):
        labels = self.task["labels"]
        yield ", ".join(_code(label) for label in labels[:50]) + (
            f", and {len(labels) - 50} more in config.json" if len(labels) > 50 else ""
        )

    def _made(self):
        lines = [
            f"- {self.texts[name]:,} texts {what} ({_plain(self._source(name))})"
            for name, what in _SETS.items()
            if name in self.texts
        ]
        stages = self.settings["stages"]
        for name, title in _STAGES.items():
            stage = stages.get(name)
            if stage:
                limit = f", at most {stage['steps']:,} steps" if stage.get("steps") else ""
                lines.append(
                    f"- {title}: {_count(stage['epochs'], 'epoch')}{limit}, learning rate "
                    f"{stage['learning_rate']:g}, batches of {self.settings['batch_size']}"
                )
        lines.append(f"- texts cut to {self.facts['max_length']} tokens")
        versions = self.settings["versions"]
        lines.append(
            f"- bert-of-theseus {versions['bert-of-theseus']}, {self.settings['keras']}, Python "
            f"{versions['python']}, {self.settings['machine']}, seed {self.settings['seed']}"
        )
        yield "\n".join(lines)
        if self.search:
            yield f"The number of layers was found by a search. {self.search['reason']}"
            yield Choice(**self.search).table
        command = self._command()
        if command:
            yield f"{_fence(command)}sh\n{command}\n{_fence(command)}"

    def _command(self):
        """What was typed; `None` if Python called the package."""
        program, *arguments = self.settings["command"] or [""]
        if Path(program).name not in ("bert-of-theseus", "__main__.py"):
            return None
        return shlex.join(["bert-of-theseus", *arguments])

    def _limits(self):
        has_test = self.rows[-1].get("test_score") is not None
        chosen = "weights and the number of layers" if self.search else "weights"
        count = self.texts["validation"]
        lines = [
            f"The validation texts ({count:,}) also chose the {chosen}, so the score on them is "
            "rather too high than too low."
        ]
        if not has_test:
            lines.append("There were no other texts for a test.")
        elif self.task["metric"] == "accuracy":
            lines.append(
                f"One test text more or less is {100 / self.texts['test']:.2g} points of accuracy."
            )
        if self.rows[-1].get("latency_ms") is not None:
            lines.append(
                f"Times per example are those of {self.settings['keras']} on the machine above, "
                "one text at a time."
            )
        if self.search and self.search.get("timed"):
            lines.append(
                f"The time that the search compared, before any training: {self.search['timed']}."
            )
        if self.has_int8:
            lines.append(
                "The scores are those of the float32 model. That of `model_quantized.onnx` was not "
                "measured."
            )
        lines += [
            *self.notes,
            "Not measured: texts of other kinds or languages, single groups of people, and how "
            "well the probabilities are calibrated. The model learned from its predecessor: expect "
            "its errors and its bias.",
        ]
        return "\n".join(f"- {line}" for line in lines)


def _count(number, what):
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _plain(text):
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _code(text):
    """A label in Markdown's code font, whatever is in it."""
    text = " ".join(text.split()) or " "
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _fence(text):
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _python(*lines):
    return "\n".join(["```python", *lines, "```"])


def to_yaml(value, indent: str = "") -> str:
    """A dict of dicts, lists, strings and numbers as YAML, strings in quotes."""
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines.append(f"{indent}{key}:\n{to_yaml(item, indent + '  ')}")
        elif isinstance(item, list):
            lines.append(f"{indent}{key}:\n")
            for one in item:
                text = to_yaml(one, indent + "  ") if isinstance(one, Mapping) else None
                body = f"{_scalar(one)}\n" if text is None else text[len(indent) + 2 :]
                lines.append(f"{indent}- {body}")
        else:
            lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value) -> str:
    # JSON's strings and numbers are YAML's, but for characters that YAML would not read.
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(number):
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
