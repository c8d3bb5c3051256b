"""`compress_pretrained`: a fine-tuned model's folder in, a smaller one out."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .folder import OutputFolder
from .inputs import Inputs, read_inputs
from .stages import default_stages

_ONNX = ("model.onnx", "model_quantized.onnx")
_FROM_COMPRESS = ("report.md", "training.png", "tradeoff.png")


@dataclasses.dataclass(repr=False)
class CompressedFolder:
    """Result of `compress_pretrained`: a folder with a smaller model.

    Attributes:
        directory: Path of the folder. `load_pretrained`, `Predictor.load` and `transformers` read
            it.
        num_hidden_layers: Integer, the number of the smaller model's layers.
        rows: The report, a dict per model, as in `Compressed`.
        settings: Dict of all settings, versions and seeds.
    """

    directory: Path
    num_hidden_layers: int
    rows: list[dict]
    settings: dict

    @property
    def table(self) -> str:
        """The report as a Markdown table."""
        return (self.directory / "report.md").read_text(encoding="utf-8").rstrip()

    def _repr_markdown_(self):
        return self.table

    def __repr__(self):
        return f"{self.table}\n\nSaved in {self.directory}"


def compress_pretrained(
    model: str | os.PathLike,
    *,
    train: str | os.PathLike,
    directory: str | os.PathLike,
    num_hidden_layers: int | None = None,
    unlabeled: str | os.PathLike | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
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
            a folder with train, validation and test files, see `data.load_texts`.
        directory: The folder to be written.
        num_hidden_layers: Integer, the number of layers to be left.
        unlabeled: More texts to train on, a file or a folder. The model's own answers are learned
            in place of their labels; and so for all texts, if `train` has no labels. The answers
            are computed once. Defaults to `None`.
        text_columns: Names of the columns with the text, one or two. Defaults to usual names.
        label_column: Name of the column with the label. Defaults to usual names.
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
        FileNotFoundError, ValueError, TypeError: before anything is written: what is wrong with
            the model, the texts or an argument; names the file, and the row or the column.
        OSError: if `directory` cannot be written to, or holds something else.

    Example:

    >>> result = compress_pretrained("my-model", train="train.csv", num_hidden_layers=6,
    ...     directory="small")
    >>> print(result.table)
    """
    say = _say if verbose else _say_nothing
    if onnx:
        _check_onnx()
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
        validation=validation,
        test=test,
        validation_fraction=validation_fraction,
        limit=limit,
        seed=seed,
    )
    stages = default_stages(inputs.num_texts, batch_size, epochs, learning_rate)
    request = {
        **inputs.checksums(),
        "layers": num_hidden_layers,
        "metric": inputs.task.metric,
        "batch_size": batch_size,
        "stages": stages,
        "seed": seed,
    }
    state = folder.state(json.loads(json.dumps(request)))
    if state == "finished":
        say(f"{folder.directory} is finished; this is its report.")
    else:
        say(inputs.describe())
        from .trainer import Trainer

        trainer = Trainer(inputs, stages, batch_size, seed, verbose)
        if dry_run:
            from .estimate import estimate

            return estimate(trainer, num_hidden_layers)
        folder.start(request)
        trainer.compute_answers(folder.unfinished / "answers")
        trained = trainer.train(
            num_hidden_layers, folder.unfinished / f"{num_hidden_layers}-layers"
        )
        _write_model(folder, inputs, trained)
        folder.finish(request, _report(trained))
    if onnx:
        _export(folder.directory, say)
    report = folder.report()
    return CompressedFolder(
        folder.directory, report["num_hidden_layers"], report["rows"], report["settings"]
    )


def _write_model(folder: OutputFolder, inputs: Inputs, trained) -> None:
    from ..checkpoints import save_pretrained

    save_pretrained(
        folder.directory,
        trained.encoder,
        trained.result.classifier,
        tokenizer=inputs.tokenizer,
        labels=inputs.head.labels,
    )
    for name in _FROM_COMPRESS:
        path = trained.result.directory / name
        if path.is_file():
            shutil.copyfile(path, folder.directory / name)


def _report(trained) -> dict:
    result = trained.result
    return {
        "num_hidden_layers": trained.num_hidden_layers,
        "rows": result.rows,
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
        "settings": result.settings,
    }


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}: pip install 'bert-of-theseus[export]'"
        )


def _export(directory: Path, say) -> None:
    if all((directory / "onnx" / name).is_file() for name in _ONNX):
        return
    from ..deploy import export_folder

    export_folder(directory, onnx=(None, "int8"), report=lambda path: say(f"wrote {path}"))


def _say(text):
    print(text, flush=True)


def _say_nothing(text):
    pass
