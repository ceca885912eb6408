"""Trying cases until the time is over: what was tried, how often, and the seed of each failure."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.hardness import flags, folders, kills, tables
from benchmarks.hardness.cases import Material, call, last_line, start, wait

BATCH = 25  # cases that a seed stands for
AT_ONCE = 8  # processes that predict side by side


class Counts:
    """Outcomes by kind, and failures with their seeds."""

    def __init__(self):
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def add(self, kind: str, outcome: str, problem: str | None, where: str) -> None:
        """Count one case."""
        self.outcomes[kind, "failed" if problem else outcome] += 1
        if problem:
            self.failures.append(f"{kind}, {where}: {problem}")

    def rows(self) -> list[list[Any]]:
        """A row for each kind of case: tried, ended well, refused in one line, failed."""
        kinds = dict.fromkeys(kind for kind, _ in self.outcomes)
        rows = []
        for kind in kinds:
            of = {outcome: count for (k, outcome), count in self.outcomes.items() if k == kind}
            good = sum(count for outcome, count in of.items() if outcome not in ("failed", "refused"))
            rows.append([kind, sum(of.values()), good, of.get("refused", 0), of.get("failed", 0)])
        return rows


def drawn(strategy: Any, number: int, count: int) -> list[Any]:
    """Cases of a strategy for a seed, always the same ones."""
    found: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found[:count]


def try_tables(material: Material, number: int, counts: Counts, count: int = BATCH) -> None:
    """Read tables, all of a seed in one process."""
    folder = material.fresh(f"tables-{number}")

    def read(words: list[str]) -> None:
        import datasets

        datasets.disable_progress_bars()
        for i, case in enumerate(drawn(tables.cases(), number, count)):
            text = str(case)
            try:
                outcome, problem = tables.try_table(case, folder / str(i))
            except Exception as error:
                outcome, problem = "", f"{type(error).__name__}: {error}"
            print(json.dumps([outcome, problem, f"seed {number}, case {i}, {text}"]), flush=True)
            shutil.rmtree(folder / str(i), ignore_errors=True)

    ended = call(read, [], folder, timeout=300)
    for line in ended.output.splitlines():
        counts.add("table", *json.loads(line))
    if ended.status != 0:
        counts.add("table", "", f"the process ended: {last_line(ended.errors)}", f"seed {number}")
    shutil.rmtree(folder, ignore_errors=True)


def try_flags(
    material: Material, number: int, counts: Counts, count: int = BATCH, scripts: Any = flags.SCRIPTS
) -> None:
    """Run commands with flags."""
    known = [flag for script in scripts for flag in flags.known_flags(script)]
    for i, case in enumerate(drawn(flags.cases(known), number, count)):
        name = f"{number}-{i}"
        ended, _words = flags.try_flags(material, case, name)
        outcome = "refused" if ended.status == 2 else "ended well"
        left = flags.left_behind(material, name) if ended.status == 2 else None
        counts.add("flags", outcome, ended.problem or left, f"seed {number}, case {i}, {case[0]} {case[1]!r:.300}")
        flags.clean(material, name)


def try_folders(material: Material, number: int, counts: Counts, count: int = BATCH) -> None:
    """Use damaged folders of runs, and go on from damaged checkpoints."""
    for i, case in enumerate(drawn(folders.cases(material), number, count)):
        outcome, problem = folders.try_folder(material, case, f"{number}-{i}")
        counts.add("folder", outcome, problem, f"seed {number}, case {i}, {case}")


def try_kills(material: Material, number: int, counts: Counts, count: int = 1) -> None:
    """Kill commands, and give them again."""
    for i in range(count):
        outcome, problem, where = kills.try_kill(material, number * 1000 + i)
        counts.add("kill", outcome, problem, f"seed {number * 1000 + i}, {where}")


def try_predictions(material: Material, number: int, counts: Counts, count: int = BATCH) -> None:
    """Predict by many processes at once with one run: all say the same, and its folder stays as it was."""
    run, folder = material.runs["full" if number % 2 else "generator"], material.fresh(f"predictions-{number}")
    (folder / "texts.txt").write_text("so it begins\nagain and again\n")
    words, main = ["--model", str(run), "--json", "--file", str(folder / "texts.txt")], flags.script_main("predict")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    waiting, said = list(range(count)), []
    working: dict[int, tuple[int, float]] = {}
    while waiting or working:
        while waiting and len(working) < AT_ONCE:
            case = waiting.pop()
            (folder / str(case)).mkdir()
            working[case] = start(main, words, folder / str(case)), time.monotonic()
        case = next(iter(working))
        pid, begun = working.pop(case)
        ended = wait(pid, folder / str(case), 120, begun)
        said.append(ended.output)
        problem = ended.problem or (None if ended.output == said[0] else "another answer than the first one's")
        counts.add("prediction", "ended well", problem, f"seed {number}, case {case}, {run.name}")
    if before != {path: path.stat().st_mtime_ns for path in run.rglob("*")}:
        counts.add("prediction", "", "the folder of the run was changed", f"seed {number}, {run.name}")
    shutil.rmtree(folder, ignore_errors=True)


TRIES: dict[str, Callable[..., None]] = {
    "tables": try_tables,
    "flags": try_flags,
    "folders": try_folders,
    "kills": try_kills,
    "predictions": try_predictions,
}


def numbers(begin: int) -> Iterator[int]:
    """Seeds."""
    while True:
        yield begin
        begin += 1


def try_all(material: Material, wanted: dict[str, int], minutes: float, begin: int = 0, log: Any = print) -> Counts:
    """Try cases of each kind until there are as many as wanted, or the time is over.

    Args:
        material: what they are made of.
        wanted: cases of each kind.
        minutes: at most.
        begin: the first seed.
        log: gets each failure as it happens.
    """
    counts, deadline = Counts(), time.monotonic() + 60 * minutes
    kinds = {"tables": "table", "flags": "flags", "folders": "folder", "kills": "kill", "predictions": "prediction"}
    seeds, shown = {name: numbers(begin) for name in TRIES}, 0

    def done(name: str) -> int:
        return sum(count for (kind, _), count in counts.outcomes.items() if kind == kinds[name])

    while time.monotonic() < deadline:
        left = {name: many - done(name) for name, many in wanted.items() if many > done(name)}
        if not left:
            break
        name = max(left, key=lambda name: left[name] / wanted[name])  # so that time is short for all alike
        TRIES[name](
            material, next(seeds[name]), counts, **({} if name == "kills" else {"count": min(BATCH, left[name])})
        )
        for failure in counts.failures[shown:]:
            log(failure)
        shown = len(counts.failures)
    return counts
