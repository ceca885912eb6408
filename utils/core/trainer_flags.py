"""What is known of Trainer's flags before its dataclass is loaded, which takes torch.

The names are read from the source of the classes that are installed, so they cannot be others than Trainer's.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

from utils.core.errors import UserError

# The classes whose fields are the flags, by the dataclass of the script. Python's own way to know them loads torch.
SOURCES = {
    "utils.training.arguments:TaskTrainingArguments": ("transformers.training_args:TrainingArguments",),
    "utils.training.generator:GeneratorTrainingArguments": (
        "transformers.training_args:TrainingArguments",
        "trl.trainer.base_config:_BaseConfig",
        "trl.trainer.sft_config:SFTConfig",
        "utils.training.arguments:TaskTrainingArguments",
    ),
}


@dataclass
class TrainerFlags:
    """Those of Trainer's flags that are needed before it is loaded, with its defaults."""

    output_dir: str | None = None
    seed: int = 42
    disable_tqdm: bool | None = None

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("give the folder of the run by --output_dir")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must be 0 or more")


def early_flags(trainer: str) -> type[TrainerFlags]:
    """`TrainerFlags` with those of Trainer's flags that are numbers or switches: values of another type are refused.

    Args:
        trainer: Trainer's dataclass, `module:Class`.
    """
    kinds = {"int": int, "float": float, "bool": bool}
    declared = {line.target.id: line for where in (*SOURCES[trainer], trainer) for line in _declared(where)}
    fields = []
    for name, line in declared.items():
        kind = kinds.get(ast.unparse(line.annotation).removesuffix(" | None"))
        if kind and name not in TrainerFlags.__dataclass_fields__ and _is_flag(line):
            fields.append((name, kind | None, None))
    early: Any = make_dataclass("TrainerFlags", fields, bases=(TrainerFlags,))
    return early


def flags_of_trainer(trainer: str) -> frozenset[str]:
    """All flags of Trainer's dataclass `module:Class`, also as they are written with dashes."""
    names: dict[str, bool] = {}
    for where in (*SOURCES[trainer], trainer):
        names |= _fields(where)
    flags = {flag for name, is_flag in names.items() if is_flag for flag in (name, f"no_{name}")}
    return frozenset(f"--{spelling}" for flag in flags for spelling in (flag, flag.replace("_", "-")))


def options_of_trainer(trainer: str) -> dict[str, tuple[type, Any, str]]:
    """Type, default and help text of flags of Trainer's dataclass `module:Class`: those whose default is a plain value.

    The type is int, float, or str for all others.
    """
    options: dict[str, tuple[type, Any, str]] = {}
    for where in (*SOURCES[trainer], trainer):
        for line in _declared(where):
            call: Any = line.value
            with suppress(AttributeError, KeyError, ValueError):  # of other forms than these two
                kind = {"int": int, "float": float}.get(ast.unparse(line.annotation).split(" ")[0], str)
                parts = {part.arg: part.value for part in call.keywords}
                if call.func.id == "option":
                    options[line.target.id] = (kind, ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1]))
                elif call.func.id == "field":
                    text = ast.literal_eval(parts["metadata"])["help"]
                    options[line.target.id] = (kind, ast.literal_eval(parts["default"]), text)
    return options


def _fields(where: str) -> dict[str, bool]:
    """The fields that a class `module:Class` declares itself, and whether they can be given to its `__init__`."""
    return {line.target.id: _is_flag(line) for line in _declared(where)}


def _is_flag(line: Any) -> bool:
    """Whether the field that a line declares can be given to `__init__`."""
    return not any(
        keyword.arg == "init" and getattr(keyword.value, "value", True) is False
        for keyword in getattr(line.value, "keywords", ())
    )


@functools.cache
def _declared(where: str) -> list[Any]:
    """The lines of a class `module:Class` that declare its fields, with the names of these in `target.id`."""
    module, name = where.split(":")
    package, *parts = module.split(".")
    found: Any = importlib.util.find_spec(package)  # never None, as it is installed
    file = Path(found.submodule_search_locations[0], *parts).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    declared = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return [line for line in declared.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
