"""Commands killed at a random moment and given again: nothing half is left, and the result is as if nobody had."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.hardness.cases import Material, call, end, start, training_words
from benchmarks.hardness.flags import script_main
from benchmarks.hardness.folders import differing, scores

# What is killed: a script, and flags of a training.
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("run_classifier", {}),
    "full, by steps": (
        "run_classifier",
        {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2},
    ),
    "report": ("run_classifier", {"report": True, "num_train_epochs": 1}),
    "LoRA, merged": ("run_classifier", {"use_peft": True, "merge_adapter": True, "num_train_epochs": 1}),
    "generator": ("run_sft_labels", {"use_peft": True, "lora_r": 4}),
    "generator, merged": ("run_sft_labels", {"use_peft": True, "merge_adapter": True, "num_train_epochs": 1}),
    "submission": ("make_submission", {}),
    "two processes": (
        "run_classifier",
        {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1},
    ),
}
PROCESSES = {"two processes": 2}


def words_of(material: Material, name: str, folder: Path) -> list[str]:
    """The command line of a command that works in a folder."""
    script, more = COMMANDS[name]
    if script == "make_submission":
        files = [
            "--test_file",
            material.test,
            "--output_file",
            folder / "s.csv",
            "--probabilities_file",
            folder / "p.csv",
        ]
        runs = [material.runs["full"], material.runs["lora"]]
        return [str(word) for word in ["--model", *runs, *files, "--chunk_rows", 3]]
    return training_words(material, script, folder / "run", **more)


def result_of(name: str, folder: Path) -> dict[str, Any]:
    """What a finished command has made, as figures."""
    if COMMANDS[name][0] == "make_submission":
        return {file: (folder / file).read_text() for file in ("s.csv", "p.csv")}
    kept = sorted(
        path.relative_to(folder / "run").as_posix()
        for path in (folder / "run").rglob("*")
        if path.is_file() and "checkpoint" not in path.as_posix()
    )
    return scores(folder / "run") | {"files": json.dumps(kept)}


def undisturbed(material: Material, name: str) -> tuple[dict[str, Any], float]:
    """The result of a command that nobody kills, and the seconds it takes."""
    folder = material.folder / "undisturbed" / name.replace(" ", "")
    if not (folder / "done.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        many = PROCESSES.get(name, 1)
        ended = call(script_main(COMMANDS[name][0]), words_of(material, name, folder), folder, processes=many)
        assert ended.status == 0, ended.errors[-2000:]
        (folder / "done.json").write_text(json.dumps([result_of(name, folder), ended.seconds]))
    result, seconds = json.loads((folder / "done.json").read_text())
    return result, seconds


def try_kill(material: Material, seed: int) -> tuple[str, str | None, str]:
    """Kill a command, once or twice, and give it again.

    Returns:
        `(what happened, what is wrong, what was killed when)`.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(COMMANDS))
    expected, seconds = undisturbed(material, name)
    main, many = script_main(COMMANDS[name][0]), PROCESSES.get(name, 1)
    folder = material.fresh(f"kill-{seed}")
    words = words_of(material, name, folder)
    where = name
    try:
        for _ in range(rng.choice([1, 1, 2])):
            after = rng.uniform(0, 1.05 * seconds)
            pid = start(main, words, folder, processes=many)
            time.sleep(after)
            end(pid)
            where += f", killed after {after:.2f} of {seconds:.2f} s"
        complete = [
            int(path.parent.name.split("-")[1])
            for path in (folder / "run").glob("checkpoint-*/trainer_state.json")
            if _is_json(path)
        ]
        trained = (folder / "run" / "all_results.json").exists()
        finished = (folder / "run" / "manifest.json").exists() or (folder / "s.csv").exists()
        ended = call(main, words, folder, processes=many)
        if finished and ended.status == 2:
            words += ["--overwrite"]
            if not (folder / "s.csv").exists() or (folder / "p.csv").exists():
                return "had finished", _compare(name, folder, expected), where
            ended = call(main, words, folder, processes=many)
        if ended.problem or ended.status != 0:
            return "", ended.problem or f"refused: {ended.errors.strip()[-300:]}", where
        if (
            complete
            and not trained
            and f"resuming from {folder / 'run'}/checkpoint-{max(complete)}" not in ended.errors
        ):
            return "", f"did not go on from checkpoint {max(complete)}", where
        return "went on" if complete else "began again", _compare(name, folder, expected), where
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_json(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False


def _compare(name: str, folder: Path, expected: dict[str, Any]) -> str | None:
    # A lock may stay of a command that was killed just after the manifest: nobody holds it, and the next takes it over.
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == ".unfinished"]
    if left:
        return f"left behind: {left}"
    return differing(result_of(name, folder), expected)
