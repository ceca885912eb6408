"""Small tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from utils.core.shown import escape_markdown, printable


def format_cell(value: Any) -> str:
    """Text of a cell: a float with three decimals, an int with thousands separators."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def format_table(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], markdown: bool = False, width: int | None = None
) -> str:
    """Lay out `rows` under `header`, the first column left-aligned, the others right-aligned.

    Args:
        header: title of each column.
        rows: cells of each row, as many as the header has.
        markdown: whether to write a Markdown table.
        width: characters of the terminal. Columns that do not fit continue in another table below, which repeats the
            first column. None for no limit.

    Returns:
        the lines, without a line break at the end.
    """
    cells = [[format_cell(value) for value in row] for row in [header, *rows]]
    if markdown:
        cells = [[escape_markdown(value) for value in row] for row in cells]
    else:
        cells = [[" ".join(printable(value).splitlines()) for value in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    aligned = [
        [value.ljust(wide) if i == 0 else value.rjust(wide) for i, (value, wide) in enumerate(zip(row, widths))]
        for row in cells
    ]
    if markdown:
        rule = ["-" * widths[0], *("-" * (wide - 1) + ":" for wide in widths[1:])]
        return "\n".join("| " + " | ".join(row) + " |" for row in [aligned[0], rule, *aligned[1:]])
    rule = ["-" * wide for wide in widths]
    lines = [aligned[0], rule, *aligned[1:]]
    parts = _columns_that_fit(widths, width)
    return "\n\n".join("\n".join("  ".join(row[i] for i in part).rstrip() for row in lines) for part in parts)


def _columns_that_fit(widths: list[int], width: int | None) -> list[list[int]]:
    """Numbers of the columns in each table of at most `width` characters; each begins with column 0."""
    parts, used = [[0]], widths[0]
    for i in range(1, len(widths)):
        if width is not None and used + 2 + widths[i] > width and len(parts[-1]) > 1:
            parts.append([0])
            used = widths[0]
        parts[-1].append(i)
        used += 2 + widths[i]
    return parts


def format_share(share: float | None) -> str:
    """A share between 0 and 1 as `100 %`, `3.5 %` or `0.21 %`; `-` for None."""
    if share is None:
        return "-"
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def format_seconds(seconds: float | None) -> str:
    """A duration as `42 s`, `3.8 min` or `2.5 h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def format_bytes(size: int | None) -> str:
    """A number of bytes as `512 MiB` or `1.9 GiB`; `-` for None."""
    if size is None:
        return "-"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
