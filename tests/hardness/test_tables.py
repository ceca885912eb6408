"""Files that were read as something else, in silence."""

import contextlib
import io
import json
import os
import re

import pandas as pd
import pytest

import compare_runs
import make_submission
from conftest import SAMPLE
from finished_runs import copy_run
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.data.columns import read_ids
from utils.data.examples import read_examples
from utils.data.find_task import find_task
from utils.data.tables import read_chunks, read_table
from utils.report.__main__ import main as report_main
from utils.runs.folder import load_results
from utils.runs.manifest import write_manifest
from utils.scoring.predictions import PREDICTIONS_FILE

HEADER = "id,text,joy,fear\n"
ROWS = HEADER + "1,one,0,1\n2,two,1,0\n3,three,1,1\n"


def read_ids_of(path):
    table = read_table(path)
    return read_ids(table, find_task(table, DataArguments(train_file=str(path))))


def read(path):
    table = read_table(path)
    task = find_task(table, DataArguments(train_file=str(path)))
    examples = read_examples(table, task)
    chunks = [value for chunk in read_chunks(path, 2) for value in read_ids(chunk, task)]
    assert examples.ids == chunks
    return examples, task


@pytest.mark.parametrize("name", ["a*b.csv", "wh?t.csv", "x[ab]y.csv", "train-00000-of-00001.csv"])
def test_a_name_is_no_pattern(tmp_path, name):
    for other in ("aXb.csv", "what.csv", "xay.csv", "xby.csv"):
        (tmp_path / other).write_text(HEADER + "9,not this,0,1\n8,nor this,1,0\n")
    (tmp_path / name).write_text(ROWS)
    assert read(tmp_path / name)[0].ids == ["1", "2", "3"]


@pytest.mark.parametrize(
    "rows",
    [
        '1,"so it begins,1,0\n2,and,0,1\n3,again",0,1\n4,x,0,0\n5,y,1,0\n',
        '1,a,1,0\n2,"b,1,0\n3,c",0,1\n4,x,0,0\n',
    ],
)
def test_a_quote_that_swallows_rows(tmp_path, rows):
    (tmp_path / "t.csv").write_text(HEADER + rows)
    with pytest.raises(UserError, match="has swallowed the next row"):
        read(tmp_path / "t.csv")
    listed = "id,labels,text\n" + '1,joy,a\n2,fear,b\n3,joy,"so it\n4,fear,ends"\n5,joy,c\n'
    (tmp_path / "t.csv").write_text(listed)
    with pytest.raises(UserError, match='row 4, column "text" has swallowed'):
        read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(HEADER + '1,a,1,0\n2,"b,1,0\n3,c,0,1\n')
    with pytest.raises(UserError, match="row 3: a cell begins with a quote that is never closed"):
        read(tmp_path / "t.csv")
    # The quote that closes the first one's text is the one that began the last one's.
    for sign in ("\t", ","):
        rows = [
            ["id", "text", "a", "b"],
            ["1", '"so', "1", "1"],
            ["2", "so 0", "1", "1"],
            ["3", '"@user ""x"""', "1", "0"],
        ]
        (tmp_path / "t.tsv").write_text("".join(sign.join(row) + "\n" for row in rows))
        with pytest.raises(UserError, match="row 2: words stand behind the quote that closes a cell of several lines"):
            read(tmp_path / "t.tsv")
    # Lines within a text are a text.
    (tmp_path / "t.csv").write_text(HEADER + '1,"well, yes, no\nand so, on",1,0\n2,b,0,1\n3,c,0,1\n')
    assert read(tmp_path / "t.csv")[0].texts[0] == "well, yes, no\nand so, on"


@pytest.mark.parametrize(
    "rows",
    [
        # text, author, label: lines of a text with commas, whose words look like names and labels and are none.
        ["text,author,labels", "Ann,joy", "Bob,fear", "Cid,joy", "Dan,joy", "Eve,fear",
         '"So, well, hm\nyes, no, maybe",Flo,joy'],
        ["text,author,labels", "Ann,joy", "Bob,fear", "Cid,joy", "Dan,joy", "Eve,fear",
         '"Ja, ""nein"", vielleicht\nund, so, weiter\nund, so, fort",Flo,joy'],
        # Numbered lists.
        ["id,text,joy,fear", "1,a,0,1", "2,b,1,0", '3,"buy, milk, and, 3 eggs\n4, or, 5",1,1'],
        ["key,text,note", "ab,one,none", "cd,two,some", 'ef,"three, four\nfive, six",more'],
        ["id,text,labels", '1,"first, second\n2, third",joy', "2,b,fear", "3,c,joy", "4,d,fear"],
        ["id,text,labels", '1,"first, 2\n2, third",joy; fear', "2,b,fear", "3,c,joy", "4,d,fear"],
    ],
)  # fmt: skip
def test_texts_of_several_lines_have_swallowed_nothing(tmp_path, rows):
    header, *rows = rows
    if header.startswith("text"):
        rows = [row if row.startswith('"') else f"text {i},{row}" for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    assert len(read_table(tmp_path / "t.csv").rows) == len(rows)


def test_a_file_written_anew_within_a_tick(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(ROWS)
    before = path.stat()
    assert read(path)[0].texts[0] == "one"
    path.write_text(ROWS.replace("one", "eno"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(path)[0].texts[0] == "eno"


def test_ids_are_what_is_written(tmp_path):
    ids = ["123456789012345678901234567890", "1.0", "007", "1e5", "-0"]
    path = tmp_path / "t.jsonl"
    rows = [f'{{"id": {i if not i.startswith("0") else json.dumps(i)}, "text": "t{i}", "joy": 1, "fear": {n % 2}}}'
            for n, i in enumerate(ids)]  # fmt: skip
    path.write_text("\n".join(rows))
    assert read(path)[0].ids == ids
    path.write_text(rows[0].replace(ids[0], "NaN") + "\n" + rows[1])
    with pytest.raises(UserError, match='row 1, column "id" is empty'):
        read(path)


def test_numbers_as_ids_are_the_same_in_every_format(tmp_path):
    """Arrow writes 1 for 1.0, where CSV and JSON have 1.0."""
    frame = pd.DataFrame({"id": [1.0, 2.5, 1e16, 0.1, -0.0], "text": list("abcde")})
    frame = frame.assign(joy=[0, 1, 0, 1, 0], fear=[1, 0, 1, 0, 1])
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, frame.to_dict("records"))))
    for number, kind in (("1.0", "float64"), ("1.0", "float32")):
        frame.astype({"id": kind}).head(1).to_parquet(tmp_path / "t.parquet")
        assert read_ids_of(tmp_path / "t.parquet") == [number]
    frame.to_parquet(tmp_path / "t.parquet")
    ids = [read_ids_of(tmp_path / f"t.{kind}") for kind in ("csv", "jsonl", "parquet")]
    assert ids[0] == ids[1] == ids[2] == ["1.0", "2.5", "1e+16", "0.1", "-0.0"]
    frame.loc[3, "id"] = float("nan")
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match='row 4, column "id" is empty'):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("cells", [["yes", "no", "?", "?"], ["2", "1", "2"], ["NaN", "NaN", "1"]])
def test_a_label_column_is_not_dropped(tmp_path, cells):
    lines = [f"{i},t{i},{i % 2},{(i + 1) % 2},{cell}\n" for i, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("id,text,joy,fear,anger\n" + "".join(lines))
    with pytest.raises(UserError, match=r'column "anger" holds .*write 0 and 1'):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(("yes", "no"), [("TRUE", "FALSE"), ("yes", "no"), ("Y", "n"), ("t", "F"), ("1.0", "0.0")])
def test_words_for_yes_and_no_are_labels(tmp_path, yes, no):
    (tmp_path / "t.csv").write_text(f"id,text,joy,fear\n1,a,{yes},{no}\n2,b,{no},{yes}\n")
    examples, task = read(tmp_path / "t.csv")
    assert task.labels == ["joy", "fear"]
    assert examples.labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": 1}\n[2]\n', "row 2 is no object"),
        ('{"id": 1}\n{"id": \n', "row 2, is no JSON"),
        ("[" * 100_000, "nests too deeply"),
        ('{"id": 1, "id": 2}\n', "stands twice"),
        ('{"text": "\\ud800"}\n', "not Unicode"),
    ],
)
def test_json_that_is_no_table(tmp_path, content, words):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "t.jsonl")


@pytest.mark.parametrize("second", ['"b"', '[["a"]]', '{"a": 1}'])
def test_json_columns_of_several_kinds(tmp_path, second):
    """Refused where they are the labels; ignored elsewhere, as entities and metadata of exports are."""
    lines = '{{"id": "1", "text": "a", "{0}": ["x"]{1}}}\n{{"id": "2", "text": "b", "{0}": {2}{1}}}\n'
    (tmp_path / "t.jsonl").write_text(lines.format("labels", "", second))
    with pytest.raises(UserError, match='column "labels" holds lists of lists'):
        read(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text(lines.format("meta", ', "joy": 1, "fear": 0', second))
    assert read(tmp_path / "t.jsonl")[1].labels == ["joy", "fear"]


def test_other_columns_are_no_labels(tmp_path):
    """What is constant, missing, or of other words is metadata."""
    for cells in (["no", "no"], ["2", "2"], ["NaN", ""], ["-", "-"], ["F", "F"]):
        rows = "".join(f"{i},t{i},{i},{1 - i},{cell}\n" for i, cell in enumerate(cells))
        (tmp_path / "t.csv").write_text("id,text,joy,fear,more\n" + rows)
        assert read(tmp_path / "t.csv")[1].labels == ["joy", "fear"]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("probability/joy", 7.0, 'row 4 .*column "probability/joy" holds 7, which is no probability'),
        ("probability/joy", -float("inf"), 'column "probability/joy" holds -inf'),
        ("truth/joy", 2, 'column "truth/joy" holds 2, which is neither 0 nor 1'),
        ("id", None, "stands in an earlier row too"),
    ],
)
def test_predictions_that_cannot_be(trained, refused, tmp_path, column, value, words):
    folder = copy_run(trained, tmp_path / "run")
    frame = pd.read_parquet(folder / PREDICTIONS_FILE)
    frame[column] = frame[column].astype(object if column == "id" else float)
    frame.loc[3, column] = frame.loc[2, "id"] if column == "id" else value
    frame.to_parquet(folder / PREDICTIONS_FILE, index=False)
    write_manifest(folder)
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
        compare_runs.main([str(folder)])
    assert re.search(words, said.getvalue()), said.getvalue()
    files = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv"]
    line = refused(make_submission.main, "--model", folder, trained, *files)
    assert re.search(words, line), line


def test_results_of_nothing(trained, tmp_path):
    folder = copy_run(trained, tmp_path / "run")
    for content in ("{}", "[]", "null", '{"eval_samples": "x"}', "[" * 100_000):
        (folder / "all_results.json").write_text(content)
        with pytest.raises(UserError, match=r"a damaged all_results\.json"):
            load_results(folder)


def test_a_log_of_nothing(trained, refused, tmp_path):
    folder = copy_run(trained, tmp_path / "run")
    for content in ("null", "[]", '{"log_history": null}', '{"log_history": [1]}', "{"):
        (folder / "trainer_state.json").write_text(content)
        assert "a damaged trainer_state.json" in refused(report_main, folder, "--skip_checks")


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_a_null_character_in_the_name_of_a_column(tmp_path, kind):
    sign = {"tsv": "\t", "csv": ","}[kind]
    (tmp_path / f"t.{kind}").write_text(sign.join(["id", "la\0bels", "text"]) + "\n" + sign.join("abc") + "\n")
    with pytest.raises(UserError, match=r'column 2: its name "la\\u0000bels" holds a null character'):
        read_table(tmp_path / f"t.{kind}")


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 100])
def test_parts_of_json_have_the_columns_of_all(tmp_path, rows_per_chunk):
    """Parts are parsed before the columns of later ones are known."""
    rows = [{}, {"a": "1", "b": ""}, {"b": ["x"], "c": False}, {"c": 2, "a": None}, {"d": {"e": 1}, "c": "z"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chunks = [chunk.rows.data.table for chunk in read_chunks(tmp_path / "t.jsonl", rows_per_chunk)]
    found = {
        name: [cell for chunk in chunks for cell in chunk.column(name).to_pylist()] for name in ("a", "b", "c", "d.e")
    }
    assert found == {
        "a": [None, "1", None, None, None],
        "b": [None, None, ["x"], None, None],
        "c": [None, None, "false", "2", "z"],
        "d.e": [None, None, None, None, "1"],
    }


def test_json_is_parsed_once(tmp_path, monkeypatch):
    (tmp_path / "t.jsonl").write_text('{"a": "1"}\n{"a": "2"}\n')
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: parsed.append(text) or loads(text, **options))
    assert sum(len(chunk.rows) for chunk in read_chunks(tmp_path / "t.jsonl", 1)) == len(parsed) == 2
