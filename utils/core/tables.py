"""Small tables, for the terminal and for Markdown."""


def format_cell(value):
    """Text of a cell: three decimals for a float, thousands separated for an int."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def format_table(header, rows, markdown=False, width=None):
    """Lay `rows` out under `header`: the first column to the left, the others to the right.

    `width`: characters of the terminal; columns that do not fit go below, beside the first one again.
    """
    cells = [[format_cell(value) for value in row] for row in [header, *rows]]
    if markdown:
        # A cell of Markdown is one line.
        cells = [[" ".join(value.replace("|", "\\|").splitlines()) for value in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    aligned = [
        [value.ljust(wide) if i == 0 else value.rjust(wide) for i, (value, wide) in enumerate(zip(row, widths))]
        for row in cells
    ]
    if markdown:
        rule = ["-" * widths[0], *("-" * (wide - 1) + ":" for wide in widths[1:])]
        return "\n".join("| " + " | ".join(row) + " |" for row in [aligned[0], rule, *aligned[1:]])
    rule = ["-" * wide for wide in widths]
    parts, used = [[0]], widths[0]
    for i in range(1, len(widths)):
        if width is not None and used + 2 + widths[i] > width and len(parts[-1]) > 1:
            parts.append([0])
            used = widths[0]
        parts[-1].append(i)
        used += 2 + widths[i]
    lines = [aligned[0], rule, *aligned[1:]]
    return "\n\n".join("\n".join("  ".join(row[i] for i in part).rstrip() for row in lines) for part in parts)


def format_share(share):
    """`100 %`, `3.5 %`, `0.21 %`; `-` for None."""
    if share is None:
        return "-"
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def format_seconds(seconds):
    """`42 s`, `3.8 min`, `2.5 h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def format_bytes(size):
    """`512 MiB`, `1.9 GiB`; `-` for None."""
    if size is None:
        return "-"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
