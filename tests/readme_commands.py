"""The commands of README.md and of docs/, run in a fresh copy."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from warm_python import write_commands

MARKS = ("needs the hub", "needs a GPU", "needs the files", "needs an extra")
# In the order in which README.md leads to them, which is that in which their commands run.
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = tuple(re.findall(r"\]\((docs/[\w-]+\.md)\) \|$", README, re.MULTILINE))
BLOCK = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def blocks():
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *PAGES)]
    return [match.groupdict() for page in pages for match in BLOCK.finditer(page)]


def warm_up(environment: Path) -> None:
    """Make the link `environment` a virtual environment with the same packages, whose Python has its imports already.

    Its `activate`, which README.md's commands source, is made for the new place.
    """
    environment.unlink()
    commands = write_commands(environment / "bin", Path(sys.prefix))
    activate = commands / "activate"
    text = activate.read_text(encoding="utf-8")
    text = re.sub(r"^( *(?:export )?VIRTUAL_ENV=).*$", rf'\1"{environment}"', text, flags=re.MULTILINE)
    activate.unlink()  # a link to the one of the tests' environment
    activate.write_text(text, encoding="utf-8")


def run_block(code, folder):
    # The environment is there already, so `make` need not install it; the generator's scores are not looked at; and one
    # fold is as good as five.
    environment = os.environ | {
        "MAKEFLAGS": "-o .venv/installed GENERATOR_EPOCHS=1",
        "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
        "FOLDS": "0",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
