"""`compress_pretrained`: a fine-tuned model's folder in, a smaller one out."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data import NO_LABEL
from ..startup import hide_startup_lines
from ..table import report_table, report_text
from .budget import check_budget
from .card import card_facts, write_card
from .folder import OutputFolder, Request
from .inputs import Inputs, read_inputs
from .stages import default_stages

_FEW_TEXTS = 20  # by which weights can hardly be chosen
_ONNX = ("model.onnx", "model_quantized.onnx")


@dataclasses.dataclass(repr=False)
class CompressedFolder:
    """Result of `compress_pretrained`: a folder with a smaller model.

    Attributes:
        directory: Path of the folder. `load_pretrained`, `Predictor.load` and `transformers` read
            it.
        num_hidden_layers: Integer, the number of the smaller model's layers.
        rows: The report, a dict per model, as in `Compressed`.
        settings: Dict of all settings, versions and seeds.
        facts: Dict of what is known of the model that was given, and of the texts.
        search: Dict of how the number of layers was found, or `None` if it was given.
        notes: List of sentences on how the stages went, as in `Compressed`.
    """

    directory: Path
    num_hidden_layers: int
    rows: list[dict]
    settings: dict
    facts: dict
    search: dict | None = None
    notes: Sequence[str] = ()

    @property
    def table(self) -> str:
        """The report as a Markdown table."""
        return report_table(self.rows, agreement=not self.facts["has_labels"])

    @property
    def report(self) -> str:
        """The table, whether differences to the predecessor are within noise, and the notes."""
        return report_text(self.rows, not self.facts["has_labels"], self.notes)

    def _repr_markdown_(self):
        return self.report

    def __repr__(self):
        return f"{self.report}\n\nSaved in {self.directory}"


def compress_pretrained(
    model: str | os.PathLike,
    *,
    train: str | os.PathLike,
    directory: str | os.PathLike,
    num_hidden_layers: int | None = None,
    keep: float | None = None,
    max_ms: float | None = None,
    unlabeled: str | os.PathLike | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    labels: Sequence[str] | None = None,
    validation: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    validation_fraction: float = 0.1,
    limit: int | None = None,
    max_length: int | None = None,
    lowercase: bool | None = None,
    metric: str | None = None,
    batch_size: int = 32,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    onnx: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verbose="auto",
):
    """Compresses a fine-tuned model of Hugging Face, and writes a folder that others load.

    The folder's head, labels and tokenizer are used as they are, and the model is not trained
    again: it is scored, and a successor of fewer layers learns to replace it, see `compress`.
    Head and encoder come out as the architecture that went in, and the tokenizer's files byte for
    byte. Everything that can be checked is checked before Keras is loaded, and before anything is
    written.

    After any interruption the same call goes on from its last checkpoint. After the end it returns
    the result at once.

    Args:
        model: A folder as `transformers` writes it: config.json, the weights, the tokenizer.
        train: The texts to train on: a file (CSV, TSV, JSON lines, a JSON array, Parquet, CoNLL) or
            a folder with train, validation and test files, see `data.load_texts`. Or a folder that
            `save_to_disk` of `datasets` has written: its texts are read as they are needed, so they
            may be more than memory holds; they must have labels, which are checked as they come.
        directory: The folder to be written.
        num_hidden_layers: Integer, the number of layers to be left. Or in its place a budget:
        keep: Float in (0, 1], such as 0.99: as few layers as keep this share of the model's score
            on the validation texts. A few depths are tried.
        max_ms: Float: as many layers as answer in so many milliseconds, one text at a time, on
            this machine. With both, the fewest layers that keep enough and are quick enough.
        unlabeled: More texts to train on, a file or a folder. The model's own answers are learned
            in place of their labels; and so for all texts, if `train` has no labels. The answers
            are computed once. Defaults to `None`.
        text_columns: Names of the columns with the text, one or two. Defaults to usual names.
        label_column: Name of the column with the label. Defaults to usual names.
        labels: List of strings, the names of the model's outputs in their order, where the model
            has none (LABEL_0, LABEL_1, ...). The smaller model has them. Defaults to `None`.
        validation, test: Files for the choice of the best weights, and for the report. Defaults
            to `None`: those in the folder `train`, or parts of the training texts.
        validation_fraction: Float, the share of a part that is cut off. Defaults to `0.1`.
        limit: Integer. Uses at most so many random texts of each file. Defaults to `None`, all.
        max_length: Integer. Texts are truncated to so many tokens. Defaults to the model's limit.
        lowercase: Boolean. Whether the tokenizer lower-cases, where the folder does not say.
        metric: The score, one of the task's: see `data.Classification` and others. Defaults to the
            task's first: accuracy, F1 or Pearson's correlation.
        batch_size: Integer. Defaults to `32`.
        epochs, learning_rate: As in `default_stages`.
        seed: Integer. Defaults to `0`.
        onnx: Boolean. Whether to write `onnx/model.onnx` and `onnx/model_quantized.onnx` too.
            Defaults to `False`.
        overwrite: Boolean. Whether to replace what is in `directory`. Defaults to `False`.
        dry_run: Boolean. Whether to write nothing, and only say what would be done, and how long
            it would take by a few timed steps. Defaults to `False`.
        verbose: As in Keras' `fit`.

    Returns:
        A `CompressedFolder`, or an `Estimate` with `dry_run=True`.

    Raises:
        ValueError: if no number of layers meets the budget. What was trained is kept.
        FileNotFoundError, ValueError, TypeError: before anything is written: what is wrong with
            the model, the texts or an argument; names the file, and the row or the column.
        OSError: if `directory` cannot be written to, or holds something else.

    Example:

    >>> result = compress_pretrained("my-model", train="train.csv", num_hidden_layers=6,
    ...     directory="small")
    >>> print(result.report)
    """
    say = functools.partial(print, flush=True) if verbose else _say_nothing
    _check_arguments(num_hidden_layers, keep, max_ms, onnx)
    files = {"train": train, "validation": validation, "test": test, "unlabeled": unlabeled}
    _check_paths(model=model, directory=directory, **files)
    folder = OutputFolder(directory, overwrite)
    folder.check(Path(model))
    inputs = read_inputs(
        model,
        train,
        unlabeled=unlabeled,
        num_hidden_layers=num_hidden_layers,
        max_length=max_length,
        lowercase=lowercase,
        metric=metric,
        text_columns=text_columns,
        label_column=label_column,
        labels=labels,
        validation=validation,
        test=test,
        validation_fraction=validation_fraction,
        limit=limit,
        seed=seed,
    )
    hidden_size = inputs.checkpoint.config["hidden_size"]
    stages = default_stages(inputs.num_texts, hidden_size, batch_size, epochs, learning_rate)
    training = {"batch_size": batch_size, "stages": stages, "seed": seed}
    wanted = {"layers": num_hidden_layers, "keep": keep, "max_ms": max_ms}
    request = Request({**inputs.checksums(), **training}, wanted)
    if folder.is_finished(request):
        say(f"{folder.directory} is finished. This is its report.")
    else:
        say(inputs.describe())
        hide_startup_lines()
        from .trainer import Trainer

        trainer = Trainer(inputs, verbose=verbose, **training)
        if inputs.has_labels:
            _check_score(trainer, say)
        if dry_run:
            from .estimate import estimate

            say("Timing a few steps of each stage")
            return estimate(trainer, num_hidden_layers, keep is not None)
        with folder.work(request):
            _work(trainer, folder, request, files, onnx, say)
    report = {"notes": [], **folder.report()}  # older folders have none
    if onnx and not dry_run:  # of a finished folder
        _export(folder.directory, say)
    names = ("num_hidden_layers", "rows", "settings", "facts", "search", "notes")
    return CompressedFolder(folder.directory, *(report[name] for name in names))


def _say_nothing(*args, **kwargs):
    pass


def _check_arguments(num_hidden_layers, keep, max_ms, onnx):
    check_budget(keep, max_ms)
    if (num_hidden_layers is None) == (keep is None and max_ms is None):
        raise TypeError(
            "Either `num_hidden_layers` must be given or a budget, `keep` or `max_ms`. Received: "
            f"{num_hidden_layers}, {keep}, {max_ms}"
        )
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if onnx and missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}: pip install 'bert-of-theseus[export]'"
        )


def _check_paths(**paths):
    for name, path in paths.items():
        is_left_out = path is None and name in ("validation", "test", "unlabeled")
        if not (is_left_out or isinstance(path, (str, os.PathLike))):
            raise TypeError(f"`{name}` must be a path. Received: {path!r:.200}")


def _check_score(trainer, say):
    """Scores the predecessor, and warns if it knows nothing of the texts."""
    from ..training import evaluate

    task, validation = trainer.inputs.task, trainer.batches["validation"]
    score = evaluate(trainer.predecessor_model, validation, **trainer.options)
    say(f"The model's {task.metric} on the validation texts: {score:.4f}")
    guess = 0.0
    if task.metric == "accuracy":
        labels = np.concatenate([np.atleast_1d(label) for label in validation.encoded.labels])
        counts = np.unique(labels[labels != NO_LABEL], return_counts=True)[1]
        guess = counts.max() / counts.sum()
    count = trainer.inputs.count("validation")
    if count < _FEW_TEXTS:
        warnings.warn(
            f"The best weights are chosen on {count:,} validation text{'s' * (count > 1)}, by "
            "chance. Give more texts.",
            stacklevel=3,
        )
    if score <= guess:
        warnings.warn(
            f"The model's {task.metric} on the validation texts is {score:.4f}, and one answer to "
            f"all of them has {guess:.4f}. Are the texts, their labels and the tokenizer the "
            "model's? What a smaller one keeps of such a score means nothing.",
            stacklevel=3,
        )


def _work(trainer, folder, request, files, onnx, say):
    """Trains, writes the model with all that goes with it, and finishes the request."""
    trainer.compute_answers(folder.unfinished / "answers")
    depth, keep, max_ms = request.wanted.values()
    choice = None
    if depth is None:
        choice = _choose(trainer, folder, keep, max_ms, say)
        depth = choice.num_hidden_layers
    trained = trainer.train(depth, folder.run(depth))
    report = _report(trained, choice, card_facts(trainer.inputs, files))
    _write_model(folder.directory, trainer.inputs, trained)
    if onnx:
        _export(folder.directory, say)
    write_card(folder.directory, report, report["facts"])
    folder.finish(request, report)


def _choose(trainer, folder, keep, max_ms, say):
    """The depth that meets the budget."""
    from .budget import choose_depth

    choice = choose_depth(trainer, folder, keep=keep, max_ms=max_ms, say=say)
    say(f"\n{choice.table}\n\n{choice.reason}")
    if not choice.met:
        raise ValueError(
            f"{choice.reason} What was trained is kept in {folder.unfinished}: ask for less, or "
            f"for {choice.num_hidden_layers} layers."
        )
    if importlib.util.find_spec("matplotlib"):
        from ..plots import plot_depths

        plot_depths(choice.rows, keep, max_ms, path=folder.directory / "depths.png")
    return choice


def _write_model(directory: Path, inputs: Inputs, trained) -> None:
    from ..checkpoints import save_pretrained

    save_pretrained(
        directory,
        trained.encoder,
        trained.result.classifier,
        tokenizer=inputs.tokenizer,
        labels=inputs.head.labels,
    )
    result = trained.result
    for name in ("training.png", "tradeoff.png"):
        if (result.directory / name).is_file():
            shutil.copyfile(result.directory / name, directory / name)
    text = report_text(result.rows, not inputs.has_labels, result.notes)
    (directory / "report.md").write_text(f"{text}\n", encoding="utf-8")


def _report(trained, choice, facts) -> dict:
    result = trained.result
    return {
        "num_hidden_layers": trained.num_hidden_layers,
        "rows": result.rows,
        "notes": result.notes,
        "facts": facts,
        "search": choice and dataclasses.asdict(choice),
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
        "settings": result.settings,
    }


def _export(directory: Path, say) -> None:
    if all((directory / "onnx" / name).is_file() for name in _ONNX):
        return
    from ..deploy import export_folder

    export_folder(directory, onnx=(None, "int8"), report=lambda path: say(f"Wrote {path}"))
