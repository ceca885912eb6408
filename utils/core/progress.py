"""Progress of a phase: one line with rate and time left, drawn in place on a terminal, else a new line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from utils.core.log import is_main_process, say, terminal
from utils.core.tables import format_bytes, format_seconds

SECONDS_BETWEEN_LINES = 10.0


class Progress(tqdm):
    """tqdm, for the main process: where nothing can be drawn in place, it prints lines, and none for a short phase.

    Args:
        phase: what is being done: `tokenizing`.
        total: how many there are.
        unit: of what, in the plural: `texts`.
        options: of tqdm.
    """

    def __init__(self, phase: str, total: int, unit: str, **options: Any):
        super().__init__(desc=phase, total=total, unit=unit, **{**_drawing(), **options})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the line, or print one; tqdm calls this."""
        return _display(self, msg, pos)

    def say(self, line: str) -> None:
        """Print a line to stdout, above the one that is drawn."""
        drawn = not self.disable and self.fp.isatty()
        if drawn:
            self.clear()
        say(line, flush=True)
        if drawn:
            self.refresh()


def off_with_transformers() -> dict[str, bool]:
    """Options of a `Progress` that is not shown where the bars of transformers are not (`--disable_tqdm`)."""
    import transformers

    return {} if transformers.utils.logging.is_progress_bar_enabled() else {"disable": True}


def _drawing() -> dict[str, Any]:
    """Options of tqdm for where stderr leads to."""
    stream = terminal(sys.stderr)
    options: dict[str, Any] = {"file": stream, "disable": not is_main_process(), "leave": False, "dynamic_ncols": True}
    if not stream.isatty():
        options |= {"mininterval": SECONDS_BETWEEN_LINES, "miniters": 1, "delay": SECONDS_BETWEEN_LINES / 2}
    return options


def show_progress_of(kind: Any) -> None:
    """Draw the bars of a library, a subclass of tqdm, in the same way."""
    if kind.display is _display:
        return
    made = kind.__init__

    def make(self: Any, *args: Any, **options: Any) -> None:
        ours = _drawing()
        made(self, *args, **{**options, **ours, "disable": options.get("disable") or ours["disable"]})

    kind.__init__, kind.display = make, _display


def _display(bar: Any, msg: str | None = None, pos: int | None = None) -> bool:
    """As `tqdm.display`, where there is a terminal to draw on."""
    if bar.fp.isatty():
        return tqdm.display(bar, msg, pos)
    if msg != "":  # which would clear what was drawn
        print(_line(bar.format_dict), file=bar.fp, flush=True)
    return False


def _line(state: dict[str, Any]) -> str:
    """`training: 41 of 165 steps, 2.4 steps/s, 52 s left`, from what tqdm knows of a bar."""
    number, total, unit = state["n"], state["total"], state["unit"].strip()
    rate = state["rate"] or (number - state["initial"]) / max(state["elapsed"], 1e-9)

    def count(value: float) -> str:
        return (
            format_bytes(int(value)) if unit == "B" else f"{value:,.3g}" if isinstance(value, float) else f"{value:,}"
        )

    of, what = f" of {count(total)}" if total else "", "" if unit == "B" else f" {unit}"
    left = f", {format_seconds((total - number) / rate)} left" if total and rate else ""
    more = f", {state['postfix']}" if state["postfix"] else ""
    return f"{state['prefix'].removesuffix(': ')}: {count(number)}{of}{what}, {count(float(rate))}{what}/s{left}{more}"
