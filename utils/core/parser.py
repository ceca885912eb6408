"""Command line and YAML: mistakes in them are told in one line, with the nearest valid name.

Nothing here imports torch, so that `--help` answers at once.
"""

import argparse
import difflib
import json
from dataclasses import field
from pathlib import Path

import yaml
from trl import TrlParser

from utils.core.errors import UserError

# Flags that people know from elsewhere, and why there are none here.
NO_SUCH_FLAG = {
    "--device_map": "each process puts its model on its own device: to spread one over several, launch with "
    "accelerate_configs/fsdp2.yaml or fsdp2_qlora.yaml",
}


def option(default, text, **metadata):
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text, **metadata})


class ArgumentParser(TrlParser):
    """`TrlParser` that checks YAML values like flags, and tells mistakes in one line with the nearest valid name."""

    def __init__(self, dataclass_types, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        for action in self._actions:
            # The parser gives `--bf16` without a value to fields of type bool, not to those of type bool | None.
            if getattr(action.type, "__name__", "") == "string_to_bool":
                action.nargs, action.const = "?", True

    def error(self, message):
        raise UserError(message)

    def set_defaults_with_config(self, **config):
        # argparse converts and checks text alone, so a value of the wrong kind in a YAML file would go through.
        config = {name: value for name, value in config.items() if value is not None}
        for action in self._actions:
            value = config.get(action.dest)
            if value is None or action.nargs == 0:
                continue
            if value is False and action.choices is not None and "no" in action.choices:
                value = "no"  # how YAML reads a bare no
            if isinstance(value, list) and action.nargs != "+":
                self.error(f"{action.dest} takes one value, not a list (in the --config file)")
            texts = [str(item) for item in value] if isinstance(value, list) else [self._as_text(value)]
            try:
                config[action.dest] = self._get_values(action, texts)
            except argparse.ArgumentError as error:
                self.error(f"{error} (in the --config file)")
        remaining = super().set_defaults_with_config(**config)
        for flag in remaining[::2]:
            self._unknown(flag, f'key "{flag[2:]}" in the --config file')
        return []

    @staticmethod
    def _as_text(value):
        return json.dumps(value) if isinstance(value, dict) else str(value)

    def _unknown(self, flag, shown):
        if flag in NO_SUCH_FLAG:
            self.error(f"there is no {shown}: {NO_SUCH_FLAG[flag]}")
        known = [name for action in self._actions for name in action.option_strings if "-" not in name[2:]]
        near = difflib.get_close_matches(flag, known, n=1, cutoff=0.4)
        hint = f": did you mean {near[0] if shown.startswith('-') else near[0][2:]}?" if near else ""
        self.error(f"unknown {'flag ' if shown.startswith('-') else ''}{shown}{hint}")

    def parse(self, argv):
        """Parse flags and the `--config` file into the dataclasses, in their order."""
        argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if "--config" in argv:
            self._check_config_file(argv[argv.index("--config") + 1 :])
        # Unknown flags first: they may be why a required one seems to be missing.
        flags = {name for action in self._actions for name in action.option_strings} | {"--config"}
        for word in argv:
            if word.startswith("--") and word.split("=", 1)[0] not in flags:
                self._unknown(word.split("=", 1)[0], word.split("=", 1)[0])
        *parsed, words = self.parse_args_and_config(argv, return_remaining_strings=True)
        if words:
            self.error(f"unexpected words {' '.join(words)}: a flag begins with --")
        return parsed

    def _check_config_file(self, words):
        if not words or words[0].startswith("--"):
            self.error("--config needs the path of a YAML file")
        path = Path(words[0])
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.error(f"{path}: {error.strerror}")
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.error(f"{path} is not valid YAML: {error}")
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            self.error(f"{path} must hold lines of the form `flag: value`")
        if not isinstance(content.get("env", {}), dict):
            self.error(f"{path}: env must hold lines of the form `NAME: value`")


def print_help(description, dataclass_types, epilog=None):
    """Print the flags of `dataclass_types` with the description."""
    ArgumentParser(dataclass_types, description=description, epilog=epilog, formatter_class=_HelpFormatter).print_help()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, and shows defaults that say something."""

    def _get_help_string(self, action):
        shown = action.default not in (None, False, argparse.SUPPRESS) and action.option_strings
        return action.help + (" (default: %(default)s)" if shown else "")
