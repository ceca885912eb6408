"""What `--help` and `--help_all` print: each flag once, with its default."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from utils.core.trainer_flags import options_of_trainer

# What most people need of the scripts that train, in the order in which they need it.
MOST_USED = (
    "model_name_or_path",
    "train_file",
    "validation_file",
    "output_dir",
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "max_length",
    "use_peft",
    "seed",
    "time_limit",
    "overwrite",
)
CONFIG = "YAML file with flags, one `flag: value` a line; the command line wins"
OTHERS = (
    "--help_all lists all other flags, Trainer's among them, with their defaults. README.md leads to the documentation."
)
PLACE = {int: "N", float: "X"}


def print_most_used(parser: argparse.ArgumentParser, trainer: str, description: str) -> None:
    """Print `MOST_USED`, without loading Trainer's dataclass, which takes torch.

    Args:
        parser: of the flags that are not Trainer's.
        trainer: `module:Class` of Trainer's arguments.
        description: printed above the flags.
    """
    shown = _empty(description, OTHERS)
    flags = shown.add_argument_group("flags that most people need")
    flags.add_argument("--config", metavar="FILE", help=CONFIG)
    known = {action.dest: action for action in parser._actions}
    of_trainer = options_of_trainer(trainer)
    for name in MOST_USED:
        if name in known:
            flags._add_action(known[name])
        else:
            kind, default, text = of_trainer[name]
            flags.add_argument(f"--{name}", type=kind, default=default, help=text)
    shown.print_help()


def print_all(parser: argparse.ArgumentParser, description: str, config: bool, words: str | None = None) -> None:
    """Print all flags of a parser.

    Args:
        parser: whose.
        description: printed above the flags.
        config: whether they can stand in a YAML file.
        words: the flag that may be left out before its words.
    """
    shown = _empty(description, None, words)
    if config:
        shown.add_argument_group("settings").add_argument("--config", metavar="FILE", help=CONFIG)
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not _is_switch_off(action) and action.dest != "help"]
        if actions:
            shown_group = shown.add_argument_group("flags" if group.title == "options" else group.title)
            for action in actions:
                shown_group._add_action(action)
    shown.print_help()


def _empty(description: str, epilog: str | None, words: str | None = None) -> argparse.ArgumentParser:
    usage = f"%(prog)s {f'{words.upper()} ... ' if words else ''}--flag value ..."
    return argparse.ArgumentParser(
        usage=usage, description=description, epilog=epilog, formatter_class=_Formatter, add_help=False
    )


def _is_switch_off(action: argparse.Action) -> bool:
    """Whether an action is the `--no_report` beside `--report`."""
    return bool(action.option_strings) and action.nargs == 0 and action.option_strings[0].startswith("--no_")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description; a flag stands there in one spelling, with its default."""

    def __init__(self, prog: str, **options: Any):
        width = min(shutil.get_terminal_size().columns, 120) - 2
        super().__init__(prog, **{**options, "max_help_position": 34, "width": width})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = action.option_strings[0]
        if action.nargs in (0, "?"):  # a switch
            return flag
        place = action.metavar or (
            "|".join(map(str, action.choices)) if action.choices else PLACE.get(self._kind(action), "TEXT")
        )
        return f"{flag} {place}{' ...' if action.nargs == '+' else ''}"

    @staticmethod
    def _kind(action: argparse.Action) -> Any:
        return {"int": int, "float": float}.get(getattr(action.type, "__name__", ""))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "left out" in text or "(needed)" in text:  # which say more than None
            return text
        default = action.default
        shown = "none" if default is None else " ".join(default) if isinstance(default, list) else default
        return f"{text} (default: {str(shown).replace('%', '%%')})"
