"""Damaged folders: finished runs that scripts use, and checkpoints that a training goes on from.

A damaged run is refused, or says what the whole one says; with --skip_checks it may say something else, but never with
a traceback. A training that goes on from a damaged checkpoint is refused, or reaches the result of an undisturbed one.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.hardness.cases import Ended, Material, call, training_words
from benchmarks.hardness.flags import script_main
from utils.runs.checkpoints import FILES_FILE

DAMAGES = (
    "null", "[]", "{}", "3", '"text"', "deep", "cut", "empty", "gone", "a folder", "byte", "other run", "garbage",
    "key gone", "key changed", "key added", "huge number", "link to nothing",
)  # fmt: skip
COMMANDS = ("predict", "make_submission", "compare_runs", "report", "push", "ensemble", "resume", "resume")


@dataclass
class Case:
    """What is damaged, how, and which command meets it."""

    run: str
    command: str
    file: int
    damage: str
    skip_checks: bool
    seed: int
    shown: str = ""

    def __str__(self):
        checks = ", --skip_checks" if self.skip_checks else ""
        return f"{self.damage} in {self.shown} of {self.run}, {self.command}{checks}"


def cases(material: Material) -> st.SearchStrategy[Case]:
    """Any damage of any file of any run."""
    return st.builds(
        Case,
        run=st.sampled_from(sorted(material.runs)),
        command=st.sampled_from(COMMANDS),
        file=st.integers(0, 1000),
        damage=st.sampled_from(DAMAGES),
        skip_checks=st.booleans(),
        seed=st.integers(0, 2**32),
    )


def damage_file(path: Path, other: Path | None, kind: str, seed: int) -> None:
    """Damage one file.

    Args:
        path: of the file.
        other: the same file of another run or checkpoint, where there is one.
        kind: of DAMAGES.
        seed: of what is random in it.
    """
    rng, content = random.Random(seed), path.read_bytes()
    if kind in ("null", "[]", "{}", "3", '"text"'):
        path.write_text(kind)
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(max(1, len(content)))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(rng.randbytes(1000))
    elif kind == "byte" and content:
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
    elif kind == "other run" and other is not None and other.is_file():
        shutil.copy(other, path)
    elif kind in ("gone", "a folder", "link to nothing"):
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind == "link to nothing":
            path.symlink_to("nothing")
    elif path.suffix == ".json":
        value = json.loads(content)
        if isinstance(value, dict) and value:
            key = rng.choice(sorted(value))
            if kind == "key gone":
                del value[key]
            elif kind == "key changed":
                value[key] = rng.choice([None, [], {}, -1, "x", 1e308, True, [None], {"a": [1]}])
            elif kind == "huge number":
                value[key] = 10**40
            else:
                value[f"{key}_"] = 1
            path.write_text(json.dumps(value))


def command(material: Material, case: Case, run: Path, folder: Path) -> tuple[Ended, Any]:
    """Use a run; returns how that ended, and what it said of new rows."""
    extra = ["--skip_checks"] if case.skip_checks else []
    target = folder / "s.csv"
    words = {
        "predict": ["--model", run, "--json", "--file", material.folder / "texts.txt"],
        "make_submission": ["--model", run, "--test_file", material.test, "--output_file", target],
        "ensemble": ["--model", run, material.runs["full"], "--test_file", material.test, "--output_file", target],
        "compare_runs": [run, material.runs["full"], "--resamples", 100],
        "report": [run],
        "push": ["push", run, "--hub_model_id", "me/run"],
    }[case.command]
    name = {"ensemble": "make_submission"}.get(case.command, case.command)
    ended = call(script_main(name), [*words, *extra], folder)
    said = target.read_text() if target.exists() else ended.output
    if case.command == "report":
        said = ""  # its page has times in it
    return ended, said.replace(str(run), "RUN")


def try_folder(material: Material, case: Case, number: str) -> tuple[str, str | None]:
    """Damage one file of a copy and use it.

    Returns:
        `(what happened, what is wrong)`.
    """
    folder = material.fresh(f"folder-{number}")
    try:
        return _resume(material, case, folder) if case.command == "resume" else _use(material, case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _use(material: Material, case: Case, folder: Path) -> tuple[str, str | None]:
    if not (material.folder / "texts.txt").exists():
        (material.folder / "texts.txt").write_text("so it begins\nagain and again\n")
    whole = material.folder / "whole" / f"{case.run}-{case.command}.json"
    if not whole.exists():
        healthy = Case(case.run, case.command, 0, "", False, 0)
        place = material.fresh("whole")
        shutil.copytree(material.runs[case.run], place / "run")
        ended, said = command(material, healthy, place / "run", place)
        whole.parent.mkdir(exist_ok=True)
        whole.write_text(json.dumps([ended.status, said]))
    expected_status, expected = json.loads(whole.read_text())
    run = folder / "run"
    shutil.copytree(material.runs[case.run], run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = files[case.file % len(files)]
    case.shown = path.relative_to(run).as_posix()
    others = [material.runs[name] / case.shown for name in material.runs if name != case.run]
    damage_file(path, random.Random(case.seed).choice(others), case.damage, case.seed)
    ended, said = command(material, case, run, folder)
    outcome = "refused" if ended.status == 2 else "ended well"
    if ended.problem:
        return outcome, ended.problem
    if ended.status == 0 and expected_status == 0 and not case.skip_checks and said != expected:
        if case.command == "compare_runs" and "skipped: " in ended.errors:
            return "refused", None  # the other run is shown, and a line says why this one is not
        return outcome, "another result with exit status 0"
    return outcome, None


def _resume(material: Material, case: Case, folder: Path) -> tuple[str, str | None]:
    script, more = {
        "full": ("run_classifier", {}),
        "lora": ("run_classifier", {"use_peft": True}),
        "generator": ("run_sft_labels", {"use_peft": True, "lora_r": 4}),
    }[case.run]
    more = more | {
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_total_limit": 3,
    }
    begun = begun_run(material, case.run, script, more)
    run = folder / "run"
    shutil.copytree(begun, run)
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = sorted(path for path in [*run.glob("*.json"), *checkpoints[-1].iterdir()] if path.is_file())
    path = files[case.file % len(files)]
    case.shown = path.relative_to(run).as_posix()
    damage_file(path, checkpoints[0] / path.name, case.damage, case.seed)
    ended = call(script_main(script), training_words(material, script, run, **more), folder)
    outcome = "refused" if ended.status == 2 else "ended well"
    if ended.problem or ended.status == 2:
        return outcome, ended.problem
    expected = scores(begun.parent / "whole")
    difference = differing(scores(run), expected)
    return outcome, f"another result after going on: {difference}" if difference else None


def begun_run(material: Material, name: str, script: str, more: dict[str, Any]) -> Path:
    """An unfinished run with checkpoints, and beside it, as `whole`, the same one undisturbed."""
    import time

    from benchmarks.hardness.cases import end, start

    place = material.folder / "begun" / name
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        ended = call(script_main(script), training_words(material, script, place / "whole", **more), place)
        assert ended.status == 0, ended.errors[-2000:]
        for _ in range(20):
            run = place / "run"
            shutil.rmtree(run, ignore_errors=True)
            pid = start(script_main(script), training_words(material, script, run, **more), place)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and len(list(run.glob(f"checkpoint-*/{FILES_FILE}"))) < 2:
                time.sleep(0.002)
            end(pid)
            saved = list(run.glob("checkpoint-*/trainer_state.json"))
            # A kill just before the list of a checkpoint's files is written leaves nothing to compare them with.
            listed = all(path.with_name(FILES_FILE).exists() for path in saved)
            if not (run / "all_results.json").exists() and saved and listed:
                break
        (place / "done").touch()
    return place / "run"


NOT_COMPARED = ("runtime", "per_second", "peak_memory", "total_flos")


def scores(run: Path) -> dict[str, Any]:
    """The results of a run without times."""
    results = json.loads((run / "all_results.json").read_text())
    return {name: value for name, value in results.items() if not any(word in name for word in NOT_COMPARED)}


def differing(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first figure that differs by more than rounding; None where none does."""
    if found.keys() != expected.keys():
        return f"figures {sorted(found.keys() ^ expected.keys())}"
    for name, value in expected.items():
        same = found[name] == value
        if isinstance(value, float) and isinstance(found[name], int | float):
            same = abs(found[name] - value) < 1e-5
        if not same:
            return f"{name} {found[name]} instead of {value}"
    return None
