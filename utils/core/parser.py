"""Command line and YAML: a mistake in them is reported in one line, with the nearest valid name.

Nothing here imports torch, so that `--help` answers at once.
"""

import argparse
import functools
import json
import math
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser

from utils.core.errors import UserError, exit_on_user_error
from utils.core.help import print_all, print_most_used
from utils.core.log import silence_deepspeed
from utils.core.noise import LibraryNoise
from utils.core.processes import is_launched_several_times
from utils.core.shown import nearest, quote
from utils.core.trainer_flags import TrainerFlags, early_flags, flags_of_trainer

# Numbers on the command line: seeds of numpy end here, and no float that is meant is as large.
LARGEST_INT, LARGEST_FLOAT = 2**32, 1e18
# Flags that people know from elsewhere, and why there are none here.
NO_SUCH_FLAG = {
    "--device_map": "each process puts its model on its own device: to spread one over several, launch with "
    "accelerate_configs/fsdp2.yaml or fsdp2_qlora.yaml",
}


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text, **metadata})


def script(
    description: str,
    arguments: Sequence[type],
    trainer: str | None = None,
    words: str | None = None,
    quiet: bool = False,
) -> Callable:
    """Decorate the `main` of a script: it is called with the parsed dataclasses.

    `--help` is answered without loading torch; `--help_all` lists Trainer's flags too. A `UserError` ends the script
    with one line and exit status 2.

    Args:
        description: shown by `--help`, the script's docstring.
        arguments: dataclasses whose fields are the flags.
        trainer: `module:Class` of Trainer's arguments, the last dataclass. It is named by text because loading it loads
            torch: `main` gets `TrainerArguments` instead, and loads it when all else has been checked.
        words: the field that takes the words of the command line that belong to no flag.
        quiet: whether what libraries print is kept from the terminal, as it is where Trainer works; `main` then prints
            by `utils.core.log`.

    Returns:
        decorator for a function of the dataclasses; the result takes a list of words, or those of the command line.
    """

    def decorate(main: Callable) -> Callable:
        @exit_on_user_error
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> None:
            argv = sys.argv[1:] if argv is None else argv
            silence_deepspeed()
            asked = set(argv[: argv.index("--")] if "--" in argv else argv)
            if {"--help", "-h"} & asked and trainer:
                return print_most_used(ArgumentParser(arguments), trainer, description)
            if {"--help", "-h", "--help_all"} & asked:
                flags = [*arguments, pkgutil.resolve_name(trainer)] if trainer else arguments
                return print_all(ArgumentParser(flags), description, config=bool(trainer), words=words)
            if not trainer:
                parsed = ArgumentParser(arguments, words=words).parse(argv)
                with LibraryNoise() if quiet else nullcontext():
                    return main(*parsed)
            parser = ArgumentParser([*arguments, early_flags(trainer)], later=flags_of_trainer(trainer))
            *parsed, flags = parser.parse(argv)
            trainer_args = TrainerArguments(flags, [*arguments, trainer], argv)
            with LibraryNoise():
                if is_launched_several_times():
                    trainer_args.load()  # it sets up the processes, which read the data one after the other
                return main(*parsed, trainer_args)

        return run

    return decorate


class TrainerArguments:
    """Trainer's arguments before they are parsed, which takes torch: all that can be refused without it comes first.

    Args:
        flags: those that are needed before.
        arguments: all dataclasses of the script; the last one, Trainer's, as `module:Class`.
        argv: the words of the command line.
    """

    def __init__(self, flags: TrainerFlags, arguments: list[Any], argv: list[str]):
        self.output_dir, self.seed, self.disable_tqdm = str(flags.output_dir), flags.seed, flags.disable_tqdm
        self._arguments, self._argv = arguments, argv
        self._loaded: Any = None

    def load(self) -> Any:
        """Trainer's dataclass, parsed once.

        Raises:
            UserError: for values of the wrong type, and what the dataclass refuses.
        """
        if self._loaded is None:
            *ours, trainer = self._arguments
            self._loaded = ArgumentParser([*ours, pkgutil.resolve_name(trainer)]).parse(self._argv)[-1]
        return self._loaded


class ArgumentParser(TrlParser):
    """`TrlParser` that checks YAML values like flags, and reports mistakes in one line with the nearest valid name.

    Args:
        dataclass_types: dataclasses whose fields are the flags.
        words: the field that takes the words that belong to no flag; without it such words are refused.
        later: flags that another parser reads later, with their values; here only other names are refused.
    """

    def __init__(
        self,
        dataclass_types: Sequence[Any],
        words: str | None = None,
        later: frozenset[str] = frozenset(),
        **kwargs: Any,
    ):
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        self.words, self.words_behind_dashes, self.later = words, [], later
        # As the classes declare them: HfArgumentParser changes the types of the fields.
        bases = [base for kind in dataclass_types for base in kind.__mro__]
        declared = ((name, str(kind)) for base in bases for name, kind in vars(base).get("__annotations__", {}).items())
        self.takes_objects = {name for name, kind in declared if "dict" in kind}
        for action in self._actions:
            action.type = _bounded(action.type)
            # The parser gives `--bf16` without a value to fields of type bool, not to those of type bool | None.
            if getattr(action.type, "__name__", "") == "string_to_bool":
                action.nargs, action.const = "?", True
            if action.option_strings and action.option_strings[0].startswith("--no_") and action.nargs == 0:
                action.help = f"the same as --{action.dest} False"

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of the choices, with the nearest of them."""
        if action.choices is None or value in action.choices:
            return
        names = list(map(str, action.choices))
        near = nearest(str(value), names, cutoff=0.6)
        hint = f": did you mean {near}?" if near else ""
        raise argparse.ArgumentError(action, f"invalid choice: {quote(value)} (choose from {', '.join(names)}){hint}")

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does, with the words that belong to no flag in their field."""
        namespace, words = super().parse_known_args(args, namespace)
        if self.words:
            dashed = [word for word in words if word.startswith("-")]
            if dashed:
                self.error(f"unknown flag {dashed[0]}: words that begin with a dash come last, after --")
            words += self.words_behind_dashes
            if words:
                setattr(namespace, self.words, [*(getattr(namespace, self.words) or []), *words])
            words = []
        return namespace, words

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        """As TrlParser does, with the values checked and converted as on the command line."""
        # argparse converts and checks text alone, so a value of the wrong kind in a YAML file would go through.
        config = {name: value for name, value in config.items() if value is not None}
        for action in self._actions:
            value = config.get(action.dest)
            if value is None or action.nargs == 0:
                continue
            if value is False and action.choices is not None and "no" in action.choices:
                value = "no"  # how YAML reads a bare no
            if isinstance(value, dict) and action.dest not in self.takes_objects:
                self.error(f"{action.dest} takes one value, not others below it (in the --config file)")
            if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
                self.error(f"{action.dest} takes no lists of lists (in the --config file)")
            if isinstance(value, list) and action.nargs != "+":
                self.error(f"{action.dest} takes one value, not a list (in the --config file)")
            texts = [str(item) for item in value] if isinstance(value, list) else [self._as_text(value)]
            try:
                config[action.dest] = self._get_values(action, texts)
            except argparse.ArgumentError as error:
                self.error(f"{error} (in the --config file)")
        remaining = super().set_defaults_with_config(**config)
        for flag in set(remaining[::2]) - self.later:
            self._unknown(flag, f'key "{flag[2:]}" in the --config file')
        return []

    @staticmethod
    def _as_text(value: Any) -> str:
        return json.dumps(value) if isinstance(value, dict) else str(value)

    def _unknown(self, flag: str, shown: str) -> NoReturn:
        if flag in NO_SUCH_FLAG:
            self.error(f"there is no {shown}: {NO_SUCH_FLAG[flag]}")
        names = [name for action in self._actions for name in action.option_strings] + sorted(self.later)
        known = [name for name in names if "-" not in name[2:] and not name.startswith("--no_")]
        near = nearest(flag[2:], [name[2:] for name in known])
        hint = f": did you mean {'--' if shown.startswith('-') else ''}{near}?" if near else ""
        self.error(f"unknown {'flag ' if shown.startswith('-') else ''}{shown}{hint}")

    def parse(self, argv: list[str]) -> list[Any]:
        """Parse flags and the `--config` file into the dataclasses, in their order.

        Raises:
            UserError: for unknown flags and keys, values of the wrong type, and what the dataclasses refuse.
        """
        if self.words:
            argv = self._set_words_apart(argv)
        argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if argv.count("--config") > 1:
            self.error("--config is given twice: put the flags into one file")
        if "--config" in argv:
            self._check_config_file(argv[argv.index("--config") + 1 :])
        # Unknown flags first: they may be why a required one seems to be missing.
        flags = {name for action in self._actions for name in action.option_strings} | {"--config"} | self.later
        for word in argv:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"{word}: -- is no value")  # argparse would take it for none
            if word.startswith("--") and word.split("=", 1)[0] not in flags:
                self._unknown(word.split("=", 1)[0], word.split("=", 1)[0])
        parsed: list[Any] = list(self.parse_args_and_config(argv, return_remaining_strings=True))
        words = parsed.pop()
        if words and not self.later:
            self.error(f"unexpected words {' '.join(words)}: a flag begins with --")
        return parsed

    def _set_words_apart(self, argv: list[str]) -> list[str]:
        """The command line without what follows `--`, and with values at its switches, which would take a word."""
        end = argv.index("--") if "--" in argv else len(argv)
        argv, self.words_behind_dashes = argv[:end], argv[end + 1 :]
        switches = {name for action in self._actions if action.nargs == "?" for name in action.option_strings}
        values = [*argv[1:], ""]
        return [
            f"{word}=True" if word in switches and value.lower() not in ("true", "false") else word
            for word, value in zip(argv, values)
        ]

    def _check_config_file(self, words: list[str]) -> None:
        if not words or words[0].startswith("--"):
            self.error("--config needs the path of a YAML file")
        path = Path(words[0])
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _OnlyOnce)
        except OSError as error:
            self.error(f"{path}: {error.strerror}")
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.error(f"{path} is not valid YAML: {error}")
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            self.error(f"{path} must hold lines of the form `flag: value`")
        if not isinstance(content.get("env", {}), dict):
            self.error(f"{path}: env must hold lines of the form `NAME: value`")


class _OnlyOnce(yaml.SafeLoader):
    """YAML in which no key stands twice: the last of them would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As SafeLoader does."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f'"{twice}" stands twice')
        return super().construct_mapping(node, deep)


def _bounded(kind: Any) -> Any:
    """A type of argparse that refuses numbers which are too large or none; others as they are.

    TRL's types of flags that may be left out take `none` too, and have the name of what else they take.
    """
    name = getattr(kind, "__name__", "")
    if name not in ("int", "float"):
        return kind

    def convert(text: str) -> Any:
        value = kind(text)
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LARGEST_FLOAT):
            raise argparse.ArgumentTypeError(f"{quote(text)} is no number to compute with")
        if isinstance(value, int) and abs(value) >= LARGEST_INT:
            raise argparse.ArgumentTypeError(f"{quote(text)} is too large a number")
        return value

    convert.__name__ = name
    return convert
