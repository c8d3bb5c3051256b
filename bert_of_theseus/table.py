"""Results as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# Of the models, by name of the stage after which they are saved.
TITLES = {
    "predecessor": "predecessor",
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
        "latency_ms": ("ms per example", ".2f"),
        "cpu_seconds": ("CPU s to train", ".0f"),
    }
    return markdown_table(rows, columns)


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
