"""`python -m utils.predict`: a run tried on texts."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd

from conftest import ROOT, SAMPLE
from utils import predict
from utils.run_folder import load_task, load_thresholds

TEXTS = list(pd.read_csv(SAMPLE / "validation.csv")["Tweet"][:7])


def test_json_lines_are_what_the_run_predicts(trained, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    predict.main(["--model", str(trained), "--file", str(tmp_path / "texts.txt"), "--json", "--batch_size", "3"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    labels = load_task(trained).labels
    saved = pd.read_parquet(trained / "predictions" / "validation.parquet")[[f"probability/{x}" for x in labels]]
    found = np.array([[row["probabilities"][label] for label in labels] for row in rows])
    assert np.abs(found - saved.to_numpy()[:7]).max() < 0.01  # other batches, other bf16 rounding
    thresholds, _, _ = load_thresholds(trained, labels)
    for row, probabilities in zip(rows, found):
        assert row["labels"] == [x for x, p, t in zip(labels, probabilities, thresholds) if p >= t]


def test_bars(trained, capsys):
    predict.main(["--model", str(trained), "so happy for you 😂"])
    shown = capsys.readouterr().out
    assert shown.startswith("so happy for you 😂\n")
    assert len([line for line in shown.splitlines() if "threshold" in line]) == 11
    values = [float(line.split("threshold")[0].split()[-2]) for line in shown.splitlines() if "threshold" in line]
    assert values == sorted(values, reverse=True)
    assert predict.bar(0.5, 0.25).count("█") + predict.bar(0.5, 0.25).count("▉") == predict.BAR // 2
    assert "▏" in predict.bar(0.2, 0.7)


def test_standard_input(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one text\nanother\n"))
    predict.main(["--model", str(trained), "--json"])
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["one text", "another"]


def test_mistakes(trained, tmp_path, refused):
    assert "is not the folder of a run" in refused(predict.main, "--model", tmp_path / "none", "a")
    assert "line 2 is empty" in refused(predict.main, "--model", trained, "a", " ")
    assert "No such file" in refused(predict.main, "--model", trained, "--file", tmp_path / "none.txt")
    assert "not both" in refused(predict.main, "--model", trained, "--file", "x", "a")
    assert "--model" in refused(predict.main, "a")
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    assert "not UTF-8" in refused(predict.main, "--model", trained, "--file", tmp_path / "latin.txt")


def test_help_needs_no_torch():
    code = "import sys\nfrom utils.predict import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
