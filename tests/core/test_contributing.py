"""CONTRIBUTING.md names files that exist, and no more than three for a typical change."""

import re
import tomllib

from conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w.<>/-]+(?:\.(?:py|yaml|yml|md|toml|txt)|/))`")


def test_files_exist():
    files = {name for name in FILE.findall(TEXT) if "<name>" not in name}
    assert len(files) > 15
    # What a run writes is named too.
    missing = {name for name in files if not (ROOT / name).exists()} - {"task.json", "run_args.json"}
    assert not missing


def test_changes_of_three_files_at_most():
    table = TEXT.partition("## Eleven changes")[2].partition("## ")[0]
    changes = [row.split("|")[2] for row in table.splitlines() if row.startswith("| a")]
    assert len(changes) == 11
    assert all(1 <= len(FILE.findall(change)) <= 3 for change in changes)


def test_the_picture_shows_the_rooms_in_the_order_of_the_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert re.findall(r"^ │ (\w+) +│", TEXT, re.MULTILINE) == settings["contracts"][0]["layers"]
