"""Flags of every script, with values made from their types: a run that ends well, or one line and exit status 2."""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.hardness.cases import Ended, Material, call, training_words
from utils.core.parser import ArgumentParser

INTEGERS = ["-1", "0", "1", "2", "7", "4294967296", "2147483648", "-2147483649", "9" * 30, "1e3", "1.5", "nan", "", "x"]
FLOATS = ["nan", "inf", "-inf", "-1", "0", "1", "0.5", "2", "1e-300", "1e300", "-0.0", "9" * 30, "", "x"]
TEXTS = [
    "", " ", "(", "[", "{", "*", "..", "/", "/proc/1/x", "/dev/null", "none", "no-such", "a" * 300, "é" * 200, 
    "a/" * 3000,
    "x\x1b[31m", "-1", "--", "true", "0", "null", "{}", "$HOME", "a\nb", "😀", "joy", "text", "id", "anger",
]  # fmt: skip
OBJECTS = [
    "{}",
    "[]",
    "null",
    "3",
    "{",
    '{"a": 1}',
    '{"lr": "x"}',
    '{"num_cycles": "x"}',
    '{"power": null}',
    "x",
    "a=b",
    "a=b,c",
]
BOOLEANS = ["True", "False", "yes", "2", "", "None"]
# These take minutes, compile, or wait for other machines; or there would be nothing to see.
LEFT_OUT = {
    "help", "config", "torch_compile", "torch_compile_backend", "torch_compile_mode", "output_dir_", "local_rank",
    "debug", "ddp_backend", "full_determinism", "auto_find_batch_size",
}  # fmt: skip
# Longer by what they say: only the checks before a training are tried.
LONGER = {"num_train_epochs", "max_steps", "max_nodes", "resamples", "gradient_accumulation_steps"}
SCRIPTS = ("run_classifier", "run_sft_labels", "make_submission", "compare_runs", "predict", "report", "push")


@dataclass
class Flag:
    """A flag of a script, and what its values may be."""

    script: str
    name: str
    kind: str
    choices: list[str]
    many: bool


def script_main(name: str) -> Callable[[list[str]], None]:
    """The `main` of a script."""
    import importlib

    module = {"report": "utils.report.__main__", "push": "utils.hub.push"}.get(name, name)
    return importlib.import_module(module).main


def parser_of(script: str) -> ArgumentParser:
    """The parser of all flags of a script, its and Trainer's."""
    import importlib

    if script in ("run_classifier", "run_sft_labels"):
        from utils.training.arguments import TaskTrainingArguments
        from utils.training.generator import GeneratorTrainingArguments

        kinds = [*importlib.import_module(script).ARGUMENTS]
        kinds.append(TaskTrainingArguments if script == "run_classifier" else GeneratorTrainingArguments)
    else:
        module, kind = {
            "make_submission": ("make_submission", "SubmissionArguments"),
            "compare_runs": ("compare_runs", "CompareArguments"),
            "predict": ("predict", "PredictArguments"),
            "report": ("utils.report.__main__", "ReportArguments"),
            "push": ("utils.hub.push", "HubArguments"),
        }[script]
        kinds = [getattr(importlib.import_module(module), kind)]
    return ArgumentParser(kinds)


def known_flags(script: str) -> list[Flag]:
    """All flags of a script, its and Trainer's."""
    parser, flags = parser_of(script), []
    for action in parser._actions:
        if action.dest in LEFT_OUT or not action.option_strings or action.nargs == 0:
            continue
        choices = [item.value if isinstance(item, enum.Enum) else str(item) for item in action.choices or ()]
        name = getattr(action.type, "__name__", "str")
        kind = "object" if action.dest in parser.takes_objects else {"string_to_bool": "bool"}.get(name, name)
        flags.append(Flag(script, action.dest, kind, choices, action.nargs == "+"))
    return flags


def values(flag: Flag) -> st.SearchStrategy[list[str]]:
    """Words for a flag."""
    by_kind = {"int": INTEGERS, "float": FLOATS, "bool": BOOLEANS, "object": OBJECTS}
    some = [*by_kind.get(flag.kind, TEXTS), *flag.choices]
    if flag.kind == "object":
        some += TEXTS[:8]
    one: st.SearchStrategy[str] = st.sampled_from(some)
    if flag.kind == "int":
        one = one | st.integers().map(str)
    elif flag.kind == "float":
        one = one | st.floats().map(str)
    elif flag.kind not in by_kind and not flag.choices:
        one = one | st.text(max_size=20).filter(lambda text: "\0" not in text and not text.startswith("-"))
    one = one.filter(lambda text: "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text))
    return st.lists(one, min_size=1, max_size=3) if flag.many else one.map(lambda word: [word])


@st.composite
def cases(draw: Any, flags: list[Flag]) -> tuple[str, list[tuple[str, list[str]]]]:
    """A script, and one or two of its flags with values."""
    first = draw(st.sampled_from(flags))
    others = [flag for flag in flags if flag.script == first.script and flag.name != first.name]
    chosen = [first, *draw(st.lists(st.sampled_from(others), max_size=1))]
    return first.script, [(flag.name, draw(values(flag))) for flag in chosen]


def try_flags(
    material: Material, case: tuple[str, list[tuple[str, list[str]]]], number: str
) -> tuple[Ended, list[str]]:
    """Run one command; returns how it ended, and its words."""
    script, flags = case
    folder = material.fresh(f"flags-{number}")
    named = {name for name, _ in flags}
    if script in ("run_classifier", "run_sft_labels"):
        more: dict[str, Any] = {"max_train_samples": 16, "max_eval_samples": 8, "num_train_epochs": 1}
        if LONGER & named:
            more["preflight_only"] = True
        words = training_words(material, script, folder / "run", **{k: v for k, v in more.items() if k not in named})
    else:
        run = folder / "run"
        shutil.copytree(material.runs["full"], run)
        words = {
            "make_submission": ["--model", run, "--test_file", material.test, "--output_file", folder / "s.csv"],
            "compare_runs": [run, "--resamples", 100],
            "predict": ["--model", run, "--file", material.test],
            "report": [run],
            "push": ["push", run, "--hub_model_id", "me/run"],
        }[script]
        words = [str(word) for word in words]
    for name, texts in flags:
        words = _without(words, f"--{name}")
        words += [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    return call(script_main(script), words, folder, timeout=60), words


def _without(words: list[str], flag: str) -> list[str]:
    """A command line without a flag and its value."""
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


def clean(material: Material, number: str) -> None:
    """Remove what a case has left."""
    shutil.rmtree(Path(material.folder / "cases" / f"flags-{number}"), ignore_errors=True)


def left_behind(material: Material, number: str) -> str | None:
    """What a refused training has left in its output folder; None where there is nothing."""
    run = material.folder / "cases" / f"flags-{number}" / "run"
    if (run / "manifest.json").exists() or not run.exists():
        return None
    found = sorted(path.name for path in run.iterdir())
    return f"a refused command left {run.name}/ with {found}"
