"""Which columns of a table hold the texts and the labels, and what a text must be."""

from __future__ import annotations

from collections.abc import Sequence

from .readers import check_unicode

# Usual names, in lower case.
_TEXTS = (
    *("text", "sentence", "review", "content", "comment", "tweet", "headline", "title", "body"),
    *("document", "utterance", "question", "query"),
)
_PAIRS = (
    *(("text", "second_text"), ("text", "text_pair"), ("text_a", "text_b"), ("text1", "text2")),
    *(("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("premise", "hypothesis")),
    *(("question1", "question2"), ("question", "sentence"), ("question", "text")),
    *(("question", "context"), ("question", "passage"), ("query", "passage")),
)
_WORDS = ("tokens", "words")
_LABELS = {
    "classification": (
        *("label", "labels", "class", "category", "target", "sentiment", "intent", "emotion"),
        *("topic", "tag", "gold_label"),
    ),
    "multi-label": ("labels", "label", "classes", "categories", "tags", "topics", "emotions"),
    "regression": ("label", "labels", "score", "rating", "similarity", "similarity_score"),
    "tagging": ("ner_tags", "tags", "labels", "label"),
}
_LABEL_OPTION = "(`label_column`, --label-column)"
# Columns that are neither.
_NUMBERS = ("id", "idx", "index", "guid", "uid", "column 1")


def are_numbers(columns: Sequence | None) -> bool:
    """Whether columns are given by number, as of files without a header."""
    return bool(columns) and all(str(c).isascii() and str(c).isdigit() for c in columns)


def text_columns(columns: Sequence[str], given: Sequence | None, kind: str = "") -> list[str]:
    """The names of the columns with the texts: one, or two for pairs.

    Args:
        columns: Names of all columns.
        given: The names that are asked for. `None` to look for usual ones.
        kind: As in `load_texts`.

    Raises:
        ValueError: if there is no such column, or none or several could be meant.
    """
    if given:
        given = [given] if isinstance(given, str) else [str(column) for column in given]
        if len(given) > 2 or len(set(given)) < len(given):
            raise ValueError(f"the texts must stand in one column or in two: {_listed(given)}")
        for column in given:
            if column not in columns:
                raise ValueError(f"no column {column!r}, but {_listed(columns)}")
        return given
    lower = {column.lower(): column for column in columns}
    if kind == "tagging":
        words = [lower[name] for name in _WORDS if name in lower]
        if len(words) == 1:
            return words
    singles = {name for name in _TEXTS if name in lower}
    pairs = [pair for pair in _PAIRS if kind != "tagging" and all(name in lower for name in pair)]
    if len(pairs) == 1 and singles <= set(pairs[0]):
        return [lower[name] for name in pairs[0]]
    if not pairs and len(singles) == 1:
        return [lower[name] for name in singles]
    problem = "no column is known to hold texts" if not singles else "several may hold the texts"
    raise ValueError(
        f"{problem}: name it (`text_columns`, --text-column). There are {_listed(columns)}"
    )


def label_column(columns: Sequence[str], given, texts: Sequence[str], kind: str) -> str | None:
    """The name of the column with the labels, or `None` if there is none.

    Args:
        columns: Names of all columns.
        given: The name that is asked for; `""` if there are no labels. `None` to look for usual
            ones.
        texts: The names of the columns with the texts.
        kind: As in `load_texts`.

    Raises:
        ValueError: if there is no such column, or it is not clear which is meant.
    """
    if given == "":
        return None
    if given is not None:
        if str(given) not in columns or str(given) in texts:
            raise ValueError(f"no column {str(given)!r} with labels, but {_listed(columns)}")
        return str(given)
    lower = {column.lower(): column for column in columns if column not in texts}
    found = [lower[name] for name in _LABELS[kind] if name in lower]
    if len(found) > 1 and not (kind == "tagging" and found[0].lower() == "ner_tags"):
        raise ValueError(
            f"several columns may hold the labels, {_listed(found)}: name it {_LABEL_OPTION}"
        )
    if found:
        return found[0]
    if others := [column for name, column in lower.items() if name not in _NUMBERS]:
        raise ValueError(
            f"no column is known to hold labels, and there are {_listed(others)}: name it "
            f"{_LABEL_OPTION}, or give the name '' if there are no labels"
        )
    return None


def text_of(row: dict, columns: Sequence[str]) -> str | tuple[str, ...]:
    """The text of a row, or its pair of texts.

    Raises:
        ValueError: if it is missing, no string, empty, or no valid Unicode.
    """
    texts = []
    for column in columns:
        if column not in row:
            raise ValueError(f"no column {column!r}, but {_listed(row)}")
        text = row[column]
        if not isinstance(text, str):
            kind = "nothing" if text is None else type(text).__name__
            raise ValueError(f"column {column!r} must be a string, received {kind}")
        check_unicode(text, f"column {column!r}")
        if not text.strip():
            raise ValueError(f"column {column!r} is empty")
        texts.append(text)
    return tuple(texts) if len(texts) > 1 else texts[0]


def check_no_header(row: dict) -> None:
    """Raises a `ValueError` if the first row of a file without a header names columns."""
    names = {*_TEXTS, *_WORDS, *(name for pair in _PAIRS for name in pair)}
    names = names.union(*_LABELS.values())
    for cell in row.values():
        if cell.strip().lower() in names:
            raise ValueError(
                f"there is a header, with {cell!r}: give the names of the columns, not their "
                "numbers"
            )


def _listed(columns):
    return ", ".join(map(repr, columns)) or "none"
