"""The commands of README.md, and a fresh copy to run them in."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

MARKS = ("needs the hub", "needs a GPU", "the test suite itself")
BLOCK = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def blocks():
    return [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


def run_block(code, folder):
    # The environment is there already, so `make` need not install it; the generator's scores are not looked at; and one
    # fold is as good as five.
    environment = os.environ | {
        "MAKEFLAGS": "-o .venv/installed GENERATOR_EPOCHS=1",
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
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
