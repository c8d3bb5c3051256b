"""Results as a Markdown table, and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# Of the models, by name of the stage after which they are saved.
TITLES = {
    "predecessor": "predecessor",
    "warm_start": "successor after its warm start",
    "theseus": "successor after Theseus",
    "successor": "successor, fine-tuned",
}


def report_table(rows: Sequence[Mapping], agreement: bool = False) -> str:
    """The report of `compress` as a Markdown table.

    Args:
        rows: The `rows` of `Compressed`.
        agreement: Boolean. Whether the predecessor's answers stood in for labels, so that scores
            say how far a model agrees with it. Defaults to `False`.
    """
    scores = ("validation", "test")
    if agreement:
        scores = (f"agreement with the predecessor, {name}" for name in scores)
    columns = {
        "model": ("model", TITLES.get),
        "layers": ("layers", "d"),
        "parameters": ("parameters", lambda count: f"{count / 1e6:.2f} M"),
        **{key: (name, ".4f") for key, name in zip(("score", "test_score"), scores)},
        "kept": ("kept", ".1%"),
        "kept_interval": ("95% interval", lambda ends: "{:.1%} to {:.1%}".format(*ends)),
        "latency_ms": ("ms per example", ".2f"),
        "cpu_seconds": ("CPU s to train", ".0f"),
    }
    if not any(row.get("kept_interval") for row in rows):
        del columns["kept_interval"]
    return markdown_table(rows, columns)


def report_text(rows: Sequence[Mapping], agreement: bool = False, notes: Sequence[str] = ()) -> str:
    """`report_table`, and below it what it can and cannot tell.

    Args:
        rows, agreement: As in `report_table`.
        notes: Sentences on how the stages went, each a paragraph at the end.
    """
    parts = [report_table(rows, agreement)]
    said = differences(rows, agreement)
    if said and _name_of_set(rows) == "validation":
        said += " The weights were chosen by these examples, so scores on them are rather too high."
    return "\n\n".join([*parts, *filter(None, [said]), *notes])


def differences(rows: Sequence[Mapping], agreement: bool = False) -> str:
    """How far the models' scores are from the predecessor's, in words, and whether that is noise.

    Args:
        rows, agreement: As in `report_table`.

    Returns:
        A few sentences; none, if the scores do not know their examples.
    """
    others = [row for row in rows if "difference_interval" in row]
    if not others:
        return ""
    count = others[0]["num_examples"]
    if count == 1:
        return f"One {_name_of_set(rows)} example is too few to tell models apart."
    found = "; ".join(f"{TITLES[row['model']]}: {_difference(row, agreement)}" for row in others)
    few = " With so few examples the intervals are rather too narrow." if count < 30 else ""
    return (
        f"Difference to the predecessor on {count:,} {_name_of_set(rows)} examples, with the 95% "
        f"interval of a paired bootstrap over them: {found}.{few}"
    )


def _difference(row, agreement):
    ends = row["difference_interval"]
    if ends is None:
        return f"{row['difference']:.4f}, without an interval: some draws have no score"
    low, high = ends
    if low == high == 0:
        return "none, on any draw of the examples"
    verdict = "within noise" if low <= 0 <= high else "more than noise"
    said = f"{row['difference']:.4f} ({low:.4f} to {high:.4f})"
    return said if agreement else f"{said}, {verdict}"


def _name_of_set(rows):
    return "test" if "test_score" in rows[0] else "validation"


def markdown_table(
    rows: Sequence[Mapping], columns: Mapping[str, tuple[str, Callable | str]]
) -> str:
    """Formats rows as a Markdown table, padded so that it is readable as plain text too.

    Args:
        rows: A mapping per row. A missing or `None` value becomes a dash.
        columns: By key of the rows, in order: the heading, and how to format a value, a function
            or a format specification such as `".1%"`. Columns of numbers are aligned right.

    Returns:
        The table, a string without a newline at its end.

    Example:

    >>> print(markdown_table([{"loss": 0.5}], {"loss": ("validation loss", ".2f")}))
    | validation loss |
    | --------------: |
    |            0.50 |
    """
    cells = [[heading for heading, _ in columns.values()]]
    for row in rows:
        cells.append([_cell(row.get(key), how) for key, (_, how) in columns.items()])
    right = [any(isinstance(row.get(key), (int, float)) for row in rows) for key in columns]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    layout = list(zip(widths, right, strict=True))
    lines = [
        [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, (width, is_number) in zip(line, layout, strict=True)
        ]
        for line in cells
    ]
    rule = ["-" * (w - 1) + ":" if is_number else "-" * w for w, is_number in layout]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _cell(value, how):
    if value is None:
        return "-"
    text = how(value) if callable(how) else format(value, how)
    return text.replace("|", r"\|")
