"""Figures with Monte Carlo errors: gathered over repetitions, kept in a results file by name, shown as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import beta

from utils.core.files import read_json, write_json
from utils.core.tables import format_table

# A table: a row's name, a column's name, and a figure.
Table = dict[str, dict[str, "Figure"]]
Repetition = dict[tuple[str, str], "float | Share"]
# Of the intervals of shares.
LEVEL = 0.95


class Share(NamedTuple):
    """How often something happened in one repetition."""

    hits: int
    trials: int


@dataclass
class Figure:
    """A mean over repetitions.

    Args:
        value: the mean, in percent or points.
        error: its Monte Carlo standard error.
        repetitions: how many there were.
        trials: of a share, in all repetitions together; None for other figures.
    """

    value: float
    error: float
    repetitions: int
    trials: int | None = None

    def __str__(self) -> str:
        if self.trials is None:
            return f"{self.value:.2f} ± {self.error:.2f}"
        low, high = self.interval
        return f"{self.value:.1f} [{low:.1f}, {high:.1f}]"

    @property
    def interval(self) -> tuple[float, float]:
        """Of a share, in percent: Jeffreys' interval (Brown, Cai and DasGupta, Statistical Science 2001).

        It is right at 0 and 100 % too, where all repetitions are alike and a standard error would be 0. Trials of one
        repetition share its rows; they count as fewer by the factor by which this makes the variance larger.
        """
        share, trials = self.value / 100, float(self.trials or 0)
        if 0 < share < 1:
            trials /= max(1.0, (self.error / 100) ** 2 * trials / (share * (1 - share)))
        hits = share * trials
        ends = beta.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], hits + 0.5, trials - hits + 0.5)
        return 0.0 if share == 0 else float(100 * ends[0]), 100.0 if share == 1 else float(100 * ends[1])


def gather(repetitions: Iterator[Repetition], squares: tuple[str, ...] = ()) -> Table:
    """Means and their errors, times 100.

    Args:
        repetitions: figures of each, by the names of row and column, or shares; a figure that is NaN is left out.
        squares: columns that hold squared figures: the root of their mean is taken.
    """
    values = {}
    for repetition in repetitions:
        for place, value in repetition.items():
            values.setdefault(place, []).append(value)
    table = {}
    for (row, column), numbers in values.items():
        trials = sum(one.trials for one in numbers) if isinstance(numbers[0], Share) else None
        numbers = np.array([one.hits / one.trials for one in numbers] if trials else numbers, dtype=float)
        numbers = numbers[~np.isnan(numbers)]
        mean, error = numbers.mean(), numbers.std(ddof=1) / np.sqrt(len(numbers))
        if column in squares:
            mean, error = np.sqrt(mean), error / (2 * np.sqrt(mean)) if mean > 0 else 0.0
        table.setdefault(row, {})[column] = Figure(float(100 * mean), float(100 * error), len(numbers), trials)
    return table


def report(results: dict[str, dict[str, Table]]) -> str:
    """The tables of all names, one below the other where they have the same rows."""
    parts = []
    for title in next(reversed(results.values())):
        named = {name: tables[title] for name, tables in results.items() if title in tables}
        columns = list(dict.fromkeys(c for table in named.values() for cells in table.values() for c in cells))
        rows = [
            [row, name, next(iter(table[row].values())).repetitions, *(table[row].get(c, "-") for c in columns)]
            for row in next(reversed(named.values()))
            for name, table in named.items()
            if row in table
        ]
        parts.append(f"{title}\n\n{format_table(['', 'code', 'repeated', *columns], rows)}")
    return "\n\n\n".join(parts)


def command_line(folders: list[str] | None = None) -> str:
    """The arguments of this program, without the paths of folders that it was given."""
    return " ".join(Path(word).name if word in (folders or []) else word for word in sys.argv[1:])


def stored(path: str) -> dict[str, dict]:
    """What the results file holds, by name; empty where there is none."""
    return read_json(path)["results"] if Path(path).is_file() else {}


def as_content(tables: dict[str, Table]) -> dict[str, dict[str, dict[str, dict]]]:
    """Tables as the results file has them."""
    return {
        title: {row: {c: _kept(cell) for c, cell in cells.items()} for row, cells in table.items()}
        for title, table in tables.items()
    }


def _kept(figure: Figure) -> dict[str, Any]:
    return {name: value for name, value in vars(figure).items() if value is not None}


def as_tables(content: dict[str, dict[str, dict[str, dict]]]) -> dict[str, Table]:
    """Tables from what the results file has."""
    return {
        title: {row: {c: Figure(**cell) for c, cell in cells.items()} for row, cells in table.items()}
        for title, table in content.items()
    }


def save(
    path: str, name: str, module: str, tables: dict[str, Table], folders: list[str] | None = None, **more: Any
) -> dict[str, dict[str, Table]]:
    """Add what a program has measured to its results file.

    Args:
        path: of the results file.
        name: of these figures in it; they replace others of that name, and come last.
        module: of the program.
        tables: by their titles.
        folders: that the program was given, whose paths are not kept.
        more: what else is kept of the measurement.

    Returns:
        the tables of all names in the file.
    """
    results = stored(path)
    results.pop(name, None)
    results[name] = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.{module} {command_line(folders)}",
        **more,
        "tables": as_content(tables),
    }
    write_json(path, {"results": results})
    return {name: as_tables(content["tables"]) for name, content in results.items()}
