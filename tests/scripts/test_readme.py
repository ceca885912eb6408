"""Every command of README.md and docs/ runs as it stands there, in a fresh copy, or is marked with what it needs.

What these pages name and link to exists.
"""

import ast
import re

import pandas as pd
import pytest
import yaml

from conftest import ROOT, SAMPLE
from readme_commands import MARKS, PAGES, blocks, run_block, warm_up


def test_unmarked_commands_are_the_ones_below():
    assert all(block["mark"] is None or block["mark"].startswith(MARKS) for block in blocks())
    assert sum(block["mark"] is None for block in blocks()) >= 12


@pytest.mark.processes
def test_other_commands(fresh_copy):
    warm_up(fresh_copy / ".venv")  # the quick start's test starts the scripts as a user does; there are many more here
    # With fewer rows and epochs than a person would take: it is the commands that are tested here.
    for recipe in (fresh_copy / "recipes").glob("minilm_*.yaml"):
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        values |= {"max_train_samples": 32, "max_eval_samples": 40, "num_train_epochs": 1, "report": False}
        if "max_nodes" in values:
            values["max_nodes"] = 4
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    for block in blocks():
        if block["mark"] is None and "quickstart" not in block["code"]:
            run_block(block["code"], fresh_copy)
    for name in (
        "submission.csv",
        "averaged.csv",
        "averaged.parquet",
        "folds.csv",
        "tiny-roberta/config.json",
        "two/README.md",
        "results.html",
        "results.png",
        "tracked/README.md",
    ):
        assert (fresh_copy / "outputs" / name).exists()
    assert len(pd.read_csv(fresh_copy / "outputs" / "averaged.csv")) == len(pd.read_csv(SAMPLE / "test.csv"))


def test_readme_leads_to_every_page():
    assert sorted(PAGES) == sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", *PAGES])
def test_links_and_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"(?:recipes|accelerate_configs|utils|sample_data|sweeps|benchmarks)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link


def messages(path):
    """The strings that a module holds, with `…` where a value is put in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_troubleshooting_quotes_messages_that_exist():
    existing = [text for pattern in ("*.py", "utils/**/*.py") for path in ROOT.glob(pattern) for text in messages(path)]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 15
    for message in quoted:
        assert any(message in text for text in existing), message
