"""Imports go one way, from the rooms above to those below, and `make lint` holds them to it."""

import os
import subprocess

import pytest


@pytest.fixture
def lint(fresh_copy):
    """Run `make lint` in a fresh copy; returns the finished process with its output."""

    def call():
        # The environment is there already, so `make` need not install it.
        return subprocess.run(
            ["make", "-o", ".venv/installed", "lint"],
            cwd=fresh_copy,
            env=os.environ | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.parametrize(
    ("module", "imported", "told"),
    [
        ("utils/core/broken.py", "utils.training.loop", "utils.core is not allowed to import utils.training"),
        ("utils/hub/broken.py", "utils.training.loop", "utils.hub is not allowed to import utils.training"),
        ("utils/runs/broken.py", "run_classifier", "utils is not allowed to import run_classifier"),
        ("utils/attic/__init__.py", "utils.core.files", "utils.attic"),  # a room without a place in the order
    ],
)
def test_an_import_that_goes_up_fails_lint(lint, fresh_copy, module, imported, told):
    path = fresh_copy / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'"""Broken on purpose."""\n\nimport {imported}  # noqa: F401\n', encoding="utf-8")
    done = lint()
    path.unlink()
    if not any(path.parent.glob("*.py")):
        path.parent.rmdir()
    assert done.returncode != 0
    assert told in done.stdout


def test_lint_passes_as_it_is(lint):
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
