"""`python predict.py`: a run tried on texts."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import make_submission
import predict
from conftest import ROOT, SAMPLE
from utils.runs.folder import load_task
from utils.scoring.thresholds import Thresholds

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
    thresholds = Thresholds.load(trained, labels).values
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


@given(st.lists(st.text("abc ", min_size=1, max_size=200), min_size=1), st.integers(60, 200), st.data())
def test_bars_fit_the_terminal(labels, columns, data):
    chances = st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels))
    probabilities, thresholds = (np.array(data.draw(chances)) for _ in range(2))
    _, *lines = predict.show(
        "text", labels, probabilities, thresholds, probabilities >= thresholds, columns
    ).splitlines()
    assert max(map(len, lines)) <= columns
    marks, given = {line[2] == "✓" for line in lines}, set(probabilities >= thresholds)
    if len(labels) > predict.SHOWN:  # the least likely of those that are not given are left out
        marks, given = marks & {True}, given & {True}
    assert marks == given
    if max(map(len, labels)) <= 20 and columns >= 80:  # there is room for all
        assert (
            predict.show("text", labels, probabilities, thresholds, probabilities >= thresholds).splitlines()[1:]
            == lines
        )


def call_with(stdin, monkeypatch, *words):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
    predict.main([str(word) for word in words])


def test_standard_input(trained, monkeypatch, capsys):
    call_with("one text\nso schön\n".encode(), monkeypatch, "--model", trained, "--json")
    output = capsys.readouterr()
    assert [json.loads(line)["text"] for line in output.out.splitlines()] == ["one text", "so schön"]
    assert "empty" not in output.err


def test_empty_lines_and_a_byte_order_mark_are_left_out(trained, monkeypatch, tmp_path, capsys):
    content = b"\xef\xbb\xbfso happy\r\n\r\n  \nagain\n\n"
    (tmp_path / "texts.txt").write_bytes(content)
    call_with(content, monkeypatch, "--model", trained, "--json")
    call_with(b"", monkeypatch, "--model", trained, "--json", "--file", tmp_path / "texts.txt")
    predict.main(["--model", str(trained), "--json", "so happy", "again"])
    output = capsys.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    assert rows[:2] == rows[2:4] == rows[4:]
    assert [row["text"] for row in rows[:2]] == ["so happy", "again"]
    notes = [line for line in output.err.splitlines() if "skipped" in line]
    assert notes == ["standard input: 3 empty lines skipped", f"{tmp_path}/texts.txt: 3 empty lines skipped"]


def write_table(rows, path):
    """Rows as the format of a name asks for them."""
    if path.name.endswith(".xlsx"):
        rows.to_excel(path, index=False)
    elif path.name.endswith(".jsonl"):
        rows.to_json(path, orient="records", lines=True)
    elif path.name.endswith(".parquet"):
        rows.to_parquet(path, index=False)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.name.endswith(".txt") else ";")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.txt", "t.jsonl", "t.parquet", "t.xlsx"])
def test_tables(trained, tmp_path, capsys, name):
    """Their text column is predicted as lines are, and ids are carried through."""
    rows = pd.DataFrame({"Id": [f"r{i}" for i in range(3)], "when": "2018", "tweet": TEXTS[:3]})
    predict.main(["--model", str(trained), "--json", "--", *TEXTS[:3]])
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    flags = ["--model", str(trained), "--file", str(write_table(rows, tmp_path / name))]
    predict.main([*flags, "--json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [{"id": f"r{i}"} | row for i, row in enumerate(expected)]
    if name == "t.csv":
        predict.main(flags)
        assert f"r1: {TEXTS[1]}" in capsys.readouterr().out


def test_tables_with_other_columns(trained, tmp_path, refused, capsys):
    rows = pd.DataFrame({"message": TEXTS[:2], "day": ["Monday", "Tuesday"]})
    flags = ["--model", trained, "--json", "--file", write_table(rows, tmp_path / "t.csv")]
    line = refused(predict.main, *flags)
    assert 'has no column "Tweet", the text column in training; it has: message, day' in line
    assert "Name it by --text_column" in line
    predict.main([*map(str, flags), "--text_column", "message"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["text"]) for row in found] == [("0", TEXTS[0]), ("1", TEXTS[1])]  # numbers of the rows
    assert 'has no column "mesage"; it has: message, day' in refused(predict.main, *flags, "--text_column", "mesage")
    assert "--text_column is for a table" in refused(predict.main, "--model", trained, "--text_column", "a", "a text")


def test_a_table_without_a_header(trained, tmp_path, refused, capsys):
    """Its first row is not taken for names in silence: the message has the flag, and the flag works."""
    rows = pd.DataFrame({"id": [f"e{i}" for i in range(4)], "text": TEXTS[:4]})
    rows.to_csv(tmp_path / "t.csv", index=False, header=False)
    flags = ["--model", trained, "--file", tmp_path / "t.csv", "--json"]
    assert "pass --column_names id Tweet" in refused(predict.main, *flags)
    test = ["--model", trained, "--test_file", tmp_path / "t.csv", "--output_file", tmp_path / "s.csv"]
    assert "pass --column_names ID Tweet" in refused(make_submission.main, *test)
    predict.main([*map(str, flags), "--column_names", "ID", "Tweet"])
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == list(rows["id"])
    make_submission.main([*map(str, test), "--column_names", "ID", "Tweet"])
    assert list(pd.read_csv(tmp_path / "s.csv")["ID"]) == list(rows["id"])


def test_texts_that_begin_with_a_dash(trained, refused, capsys):
    assert "after --" in refused(predict.main, "--model", trained, "-_-")
    flags = ["--json", "--model", str(trained)]
    for words in ([*flags, "a"], ["a", *flags]):
        predict.main([*words, "--", "-_-", "--"])
        assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["a", "-_-", "--"]


@pytest.mark.parametrize("as_json", [True, False])
def test_output_in_ascii(trained, monkeypatch, as_json):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    predict.main(["--model", str(trained), "schön 😂", *(["--json"] if as_json else [])])
    shown = output.getvalue().decode("ascii")
    if as_json:
        assert json.loads(shown)["text"] == "schön 😂"
    else:
        assert shown.startswith("sch?n ?\n")
        assert len([line for line in shown.splitlines() if re.search(r"0\.\d{3} .*threshold 0\.\d{3}$", line)]) == 11


def test_mistakes(trained, tmp_path, refused, monkeypatch):
    assert "is not the folder of a run" in refused(predict.main, "--model", tmp_path / "none", "a")
    assert "text 2 on the command line is empty" in refused(predict.main, "--model", trained, "a", " ")
    assert "no such file" in refused(predict.main, "--model", trained, "--file", tmp_path / "none.txt")
    assert "not both" in refused(predict.main, "--model", trained, "--file", "x", "a")
    assert "--model" in refused(predict.main, "a")
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    assert "line 1 is not UTF-8" in refused(predict.main, "--model", trained, "--file", tmp_path / "latin.txt")
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in refused(predict.main, "--model", trained)


def test_help_needs_no_torch():
    code = "import sys\nfrom predict import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
