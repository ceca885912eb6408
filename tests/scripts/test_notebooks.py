"""The notebooks run top to bottom, with the sample data and the embedded model."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT, SAMPLE
from readme_commands import warm_up

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# So that nothing is downloaded: what the requirements name is installed.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run_cell(source, names):
    """Run a cell as Jupyter does: Python, and commands of the shell behind a `!`, with names in braces."""

    def shell(command):
        done = subprocess.run(
            ["bash", "-c", command.format(**names)],
            env=os.environ | OFFLINE,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        names["printed"] += done.stdout

    lines = []
    for line in source.splitlines():
        code = line.lstrip()
        lines.append(line[: len(line) - len(code)] + f"_shell({code[1:]!r})" if code.startswith("!") else line)
    exec(compile("\n".join(lines), "<cell>", "exec"), names | {"_shell": shell}, names)


@pytest.mark.processes
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, fresh_copy, tmp_path, monkeypatch):
    python = fresh_copy / ".venv"
    if python.is_symlink():
        warm_up(python)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], next(cell["outputs"] for cell in notebook["cells"] if "outputs" in cell)) == (4, [])
    # What a user of it would set.
    settings = {
        "PROJECT": str(fresh_copy),
        "OUTPUTS": str(tmp_path),
        "RUN": str(tmp_path / "run"),
        "SUBMISSION": str(tmp_path / "submission.csv"),
        "PYTHON": str(python / "bin" / "python"),
        "MORE_FLAGS": "--num_train_epochs 1 --max_train_samples 64",
    }
    shown = []
    display = types.SimpleNamespace(Image=lambda file, width: Path(file), display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    names = {"printed": ""}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            run_cell("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert settings.keys() - names.keys() <= {"OUTPUTS", "RUN", "SUBMISSION"}  # one of both ways
                names |= settings
    assert "macro-F1" in names["printed"]
    assert len(pd.read_csv(names["SUBMISSION"])) == len(pd.read_csv(SAMPLE / "test.csv"))
    assert {picture.stem for picture in shown} >= {"label_f1", "training_curves"}
    assert names["results"]["eval_samples"] == len(pd.read_csv(SAMPLE / "validation.csv"))


def test_there_is_one_for_kaggle_and_one_for_colab():
    assert [path.stem for path in NOTEBOOKS] == ["colab", "kaggle"]
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert "have not been run" in text
        assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"  # as Jupyter writes it
