"""Small tables, for the terminal and for Markdown."""


def format_cell(value):
    """Text of a cell: three decimals for a float, thousands separated for an int."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def format_table(header, rows, markdown=False):
    """Lay `rows` out under `header`: the first column to the left, the others to the right."""
    cells = [[format_cell(value) for value in row] for row in [header, *rows]]
    if markdown:
        cells = [[value.replace("|", "\\|") for value in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    aligned = [
        [value.ljust(width) if i == 0 else value.rjust(width) for i, (value, width) in enumerate(zip(row, widths))]
        for row in cells
    ]
    if markdown:
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join("| " + " | ".join(row) + " |" for row in [aligned[0], rule, *aligned[1:]])
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(row).rstrip() for row in [aligned[0], rule, *aligned[1:]])
