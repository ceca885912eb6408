"""Files as people bring them: packed, from Excel, with other separators, without a header, or no table at all."""

import csv
import gzip
import io
import json
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_classifier
from conftest import training_flags
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.core.shown import nearest
from utils.data.columns import read_ids, read_texts
from utils.data.examples import read_examples
from utils.data.find_task import find_task
from utils.data.headers import Layout
from utils.data.tables import read_chunks, read_table
from utils.data.training_data import layout_of, read_training_data

ROWS = [
    ["id", "text", "joy", "fear"],
    ["007", 'so, "happy"', "1", "0"],
    ["8", "not; that | again", "0", "1"],
    ["9", "both\nof them", "1", "1"],
]


def read(path, **flags):
    """The file as training and as prediction read it, which must be the same."""
    data_args = DataArguments(train_file=str(path), **flags)
    table = read_table(path, layout_of(data_args))
    task = find_task(table, data_args)
    examples = read_examples(table, task)
    layout = Layout(csv_separator := data_args.csv_quoting, data_args.csv_separator).as_trained(task)
    assert layout.quoting == csv_separator
    chunks = list(read_chunks(path, 2, layout))
    assert [value for chunk in chunks for value in read_ids(chunk, task)] == examples.ids
    assert [value for chunk in chunks for value in read_texts(chunk, task)] == examples.texts
    return examples, task


def check(examples, task):
    assert examples.ids == [row[0] for row in ROWS[1:]]
    assert examples.texts == [row[1] for row in ROWS[1:]]
    assert task.labels == ["joy", "fear"]
    assert examples.labels.tolist() == [[1, 0], [0, 1], [1, 1]]


def delimited(separator=",", rows=ROWS):
    content = io.StringIO()
    csv.writer(content, delimiter=separator).writerows(rows)
    return content.getvalue()


def workbook(path, rows=ROWS, more=()):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for title in more:
        book.create_sheet(title).append(["other"])
    book.save(path)
    return path


# Separators


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_separators_are_found_and_said(tmp_path, capsys, separator, suffix):
    path = tmp_path / f"d{suffix}"
    path.write_text(delimited(separator), encoding="utf-8")
    check(*read(path))
    said = capsys.readouterr().err
    as_named = separator == {".csv": ",", ".tsv": "\t"}[suffix]
    assert ("its cells are separated by" in said) != as_named
    assert said.count("separated") <= 1


def test_a_separator_can_be_named(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(delimited("~"))
    check(*read(path, csv_separator="~"))
    path.write_text(delimited("\t"))
    check(*read(path, csv_separator="tab"))
    with pytest.raises(UserError, match="give one character, or tab"):
        DataArguments(csv_separator=", ")


def test_a_text_file_with_semicolons(tmp_path):
    """`text;label` without a header, as one known data set of emotions is published."""
    lines = ["i feel fine;joy", "i feel low;sadness", "i feel great;joy", "i feel blue;sadness"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"no header.*--column_names text labels"):
        read(tmp_path / "train.txt")
    examples, task = read(tmp_path / "train.txt", column_names=["text", "labels"])
    assert (task.labels, task.id_column) == (["joy", "sadness"], None)
    assert examples.texts == [line.split(";")[0] for line in lines]


def test_quotes_that_enclose_nothing(tmp_path, capsys):
    """Read as they are written, and said."""
    path = tmp_path / "d.tsv"
    path.write_text('id\ttext\tjoy\tfear\n1\t"so it is" they said\t1\t0\n2\t"all of it"\t0\t1\n3\t"open\t1\t1\n')
    assert read(path)[0].texts == ['"so it is" they said', '"all of it"', '"open']
    assert "quotes are ordinary characters" in capsys.readouterr().err
    # Where they enclose cells, lines end within them.
    path.write_text('id\ttext\tjoy\tfear\n1\t"so\n""it is"" they said"\t1\t0\n2\t"all of it"\t0\t1\n')
    assert read(path)[0].texts == ['so\n"it is" they said', "all of it"]
    assert "ordinary" not in capsys.readouterr().err


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r", exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(CELLS.map(lambda text: "x" + text).filter(str.strip), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from([".csv", ".tsv"]),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_any_text_survives_any_separator(tmp_path_factory, texts, separator, suffix, seed):
    path = tmp_path_factory.mktemp("cells") / f"d{suffix}"
    labels = np.random.default_rng(seed).integers(0, 2, (len(texts), 2))
    rows = [["id", "text", "a", "b"], *([i, text, *row] for i, (text, row) in enumerate(zip(texts, labels)))]
    path.write_text(delimited(separator, rows), encoding="utf-8", newline="")
    try:
        table, problem = read_table(path), ""
    except UserError as error:
        table, problem = None, str(error)
    if table is None:  # a cell that may have swallowed rows is refused, whatever the separator
        assert "has swallowed" in problem
        return
    task = find_task(table, DataArguments(train_file=str(path)))
    assert read_texts(table, task) == texts


# Headers


@pytest.mark.parametrize(
    ("rows", "example"),
    [
        ([["good", "27", "a1"], ["bad", "4,27", "b2"], ["so so", "25", "c3"]], "text labels id"),
        ([["some words", "1", "0"], ["other words", "0", "1"], ["and more words", "1", "1"]], "text label1 label2"),
        ([["joy", "what a day"], ["fear", "not again"], ["joy", "at last"]], "labels text"),
        ([["7", "what a day", "0"], ["8", "not again", "1"], ["9", "at last", "1"]], "id text labels"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_missing_header_is_told(tmp_path, rows, example, suffix):
    path = tmp_path / f"d{suffix}"
    if suffix == ".xlsx":
        workbook(path, rows)
    else:
        path.write_text(delimited(rows=rows))
    with pytest.raises(UserError, match=f"seems to have no header.*--column_names {example};"):
        read_table(path)
    names = tuple(f"c{i}" for i in range(len(rows[0])))
    table = read_table(path, Layout(column_names=names))
    assert [list(row.values()) for row in table.rows] == rows
    assert table.where(0) == f"{path}, row 1"
    with pytest.raises(UserError, match=rf"row 1 has {len(names)} cells, and --column_names a names 1 columns"):
        read_table(path, Layout(column_names=("a",)))


@pytest.mark.parametrize(
    "header",
    [
        ["id", "text", "0", "1"],  # labels that are called by numbers
        ["0", "1", "2", "3"],  # as pandas names what has no names
        ["Timestamp", "How was it?", "joy", "fear"],
        ["key", "what they wrote", "label", "b"],
    ],
)
def test_a_header_is_not_taken_for_data(tmp_path, header):
    (tmp_path / "d.csv").write_text(delimited(rows=[header, *ROWS[1:]]))
    table = read_table(tmp_path / "d.csv")
    assert (table.rows.column_names, len(table.rows)) == (header, 3)


def test_names_that_stand_in_the_file_are_its_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(delimited(rows=[["first", "1", "b"], ["x", "1", "b"]]))
    table = read_table(path, Layout(column_names=("First", "1", "b")))
    assert (len(table.rows), table.first_row) == (1, 2)
    with pytest.raises(UserError, match="is empty or stands twice"):
        DataArguments(column_names=["a", "a"])


def test_mistakes_in_files_without_a_header_are_placed(tmp_path):
    path, names = tmp_path / "d.csv", Layout(column_names=("text", "joy", "fear"))
    path.write_text("a,0,1\nb,1\n")
    with pytest.raises(UserError, match="row 2 has 2 cells, --column_names 3"):
        read_table(path, names)
    path.write_text("a,0,1\nb,1,0,1\n")
    with pytest.raises(UserError, match="line 2, saw 4"):
        read_table(path, names)
    path.write_text("a,0,1\nb,2,0\nc,0,1\n")
    data_args = DataArguments(column_names=["text", "joy", "fear"])
    table = read_table(path, layout_of(data_args))
    with pytest.raises(UserError, match='row 2, column "joy" is "2"'):
        read_examples(table, find_task(table, data_args))


# Excel


def test_excel(tmp_path, capsys):
    rows = [ROWS[0], *([row[0], row[1], int(row[2]), float(row[3])] for row in ROWS[1:]), [None] * 4]
    check(*read(workbook(tmp_path / "d.xlsx", rows)))
    rows[1][2], rows[2][2], rows[3][2] = True, False, True
    check(*read(workbook(tmp_path / "d.xlsx", rows, more=["notes"])))
    said = capsys.readouterr().err
    assert 'the first of its sheets is read, "Sheet" (--excel_sheet names another: notes)' in said


def test_a_sheet_can_be_named(tmp_path, capsys):
    book = openpyxl.load_workbook(workbook(tmp_path / "d.xlsx", [["about"], ["these data"]]))
    sheet = book.create_sheet("labelled")
    for row in ROWS:
        sheet.append(row)
    book.create_sheet("empty")
    book.save(tmp_path / "d.xlsx")
    path = str(tmp_path / "d.xlsx")
    for name in ("labelled", "Sheet"):  # one after the other: the cache tells them apart
        table = read_table(path, Layout(sheet=name))
        assert table.rows.column_names == (ROWS[0] if name == "labelled" else ["about"])
    read_training_data(DataArguments(train_file=path, validation_file=path, excel_sheet="labelled"), 0)
    assert "sheets" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r'has no sheet "notes" \(--excel_sheet\); it has: Sheet, labelled, empty'):
        read_table(path, Layout(sheet="notes"))
    with pytest.raises(UserError, match='no rows in its sheet "empty"'):
        read_table(path, Layout(sheet="empty"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], ["1", "x", 2, 0], ["2", "y", 0, 1], ["3", "z", 1, 1]], 'row 2, column "joy" is "2"'),
        ([ROWS[0], [12345678901234567, "x", 0, 1]], "row 2, column A holds a number of more than 15 digits"),
        ([ROWS[0], ["1", "=1/0", 0, 1]], 'row 2, column "text" has no text'),
        ([ROWS[0], ["1", "x", 0, 1, 1]], "row 2 has 5 cells"),
        ([ROWS[0]], "has no rows"),
        ([[*ROWS[0], "joy"], ["1", "x", 0, 1, 1]], 'two columns named "joy"'),
        ([], "no rows in its first sheet"),
    ],
)
def test_mistakes_in_excel(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read(workbook(tmp_path / "d.xlsx", rows))


def test_excel_without_openpyxl(tmp_path, monkeypatch):
    workbook(tmp_path / "d.xlsx")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install -r requirements-excel\.txt"):
        read_table(tmp_path / "d.xlsx")


# What a file is


@pytest.mark.parametrize("name", ["d.csv.gz", "d.csv", "d.csv.GZ"])
def test_gzip_is_read_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(delimited(";").encode(), mtime=0))
    check(*read(tmp_path / name))


def test_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.csv.zip", "w") as archive:
        archive.writestr("data/train.csv", delimited())
        archive.writestr("__MACOSX/._train.csv", "x")
        archive.writestr("README.md", "x")
    check(*read(tmp_path / "d.csv.zip"))
    with pytest.raises(UserError, match=r"d\.csv\.zip/data/train\.csv has no column"):
        read(tmp_path / "d.csv.zip", text_column=["body"])
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("train.csv", delimited())
        archive.writestr("test.csv", delimited())
    with pytest.raises(UserError, match=r"is a zip archive with train\.csv, test\.csv: unpack it"):
        read_table(tmp_path / "two.zip")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", POINTER, "Git LFS pointer"),
        ("d.parquet", POINTER, "git lfs pull"),
        ("d.csv", b"\n <!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page"),
        ("d.csv", b"\xef\xbb\xbf<html>", "is an HTML page"),
        ("d.csv", b"<?xml version='1.0'?>", "is XML"),
        ("d.xls", b"\xd0\xcf\x11\xe0" + b"\0" * 20, "workbook of an old Excel"),
        ("d.csv", b"\xd0\xcf\x11\xe0" + b"\0" * 20, "workbook of an old Excel"),
        ("d.csv", "id,text\n".encode("utf-16"), "is UTF-16"),
        ("d.csv", b'{"id": 1, "text": "a"}\n', "holds JSON"),
        ("d.csv", b"%PDF-1.4", "is a PDF"),
        ("d.csv.bz2", b"BZh91AY", "packed by bzip2: unpack it"),
        ("d.xlsx", b"id,text\n", "is no Excel workbook"),
        ("d.csv", b"PAR1" + b"\0" * 20, "is a Parquet file"),
        ("d.csv.gz", gzip.compress(b"id,text\n1,a\n", mtime=0)[:-6], "cannot be unpacked"),
        ("rows.gz", gzip.compress(b"x", mtime=0), "rows.csv.gz"),
        ("d.csv.gz", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "packed twice"),
        ("d.csv.gz", gzip.compress(POINTER, mtime=0), "Git LFS pointer"),
        ("d.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        (
            "d.csv",
            "id,text,joy,fear\n1,caf\xe9,0,1\n".encode("latin-1"),
            'line 2 is not UTF-8: read as Latin-1 it holds "1,café,0,1"',
        ),
        ("d.jsonl", '{"id": 1}\n{"id": "caf\xe9"}\n'.encode("latin-1"), "line 2 is not UTF-8"),
    ],
)
def test_what_is_no_table_is_told(refused, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run", train_file=tmp_path / name))
    assert words in line
    assert name in line
    assert not (tmp_path / "run").exists()


def test_a_workbook_that_is_called_csv(tmp_path):
    workbook(tmp_path / "d.xlsx").rename(tmp_path / "d.csv")
    with pytest.raises(UserError, match=r"is an Excel workbook: give it the ending \.xlsx"):
        read_table(tmp_path / "d.csv")


# JSON


def test_objects_in_objects(tmp_path):
    rows = [
        {"id": row[0], "data": {"text": row[1], "lang": {"code": "en"}}, "user": {"verified": True},
         "labels": {"joy": int(row[2]), "fear": int(row[3])}}
        for row in ROWS[1:]
    ]  # fmt: skip
    for name, content in (("d.jsonl", "\n".join(map(json.dumps, rows))), ("d.json", json.dumps(rows))):
        (tmp_path / name).write_text(content)
        examples, task = read(tmp_path / name)
        assert (task.text_columns, task.labels) == (["data.text"], ["joy", "fear"])
        assert examples.texts == [row[1] for row in ROWS[1:]]
        assert examples.labels.tolist() == [[1, 0], [0, 1], [1, 1]]
        assert read(tmp_path / name, text_column=["data.lang.code"])[0].texts == ["en"] * 3
    pd.DataFrame(rows).to_parquet(tmp_path / "d.parquet")
    examples, task = read(tmp_path / "d.parquet")
    assert (task.text_columns, task.labels) == (["data.text"], ["joy", "fear"])


def test_labels_and_ids_in_objects(tmp_path):
    """Labels are called as a sample submission calls them; ids stand beside the text."""
    rows = [
        {"data": {"id": row[0], "text": row[1]}, "user": {"id": "7"}, "labels": {"joy": row[2], "fear": row[3]}}
        for row in ROWS[1:]
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    examples, task = read(tmp_path / "d.jsonl")
    check(examples, task)
    assert (task.id_column, task.label_columns) == ("data.id", ["joy", "fear"])
    assert read(tmp_path / "d.jsonl", label_columns=["fear"])[1].labels == ["fear"]
    assert read(tmp_path / "d.jsonl", label_columns=["labels.joy", "labels.fear"])[1].labels == ["joy", "fear"]
    # The same labels as columns of a flat file.
    flat = [{"data.id": row[0], "data.text": row[1], "fear": row[3], "joy": row[2]} for row in ROWS[1:]]
    pd.DataFrame(flat).to_csv(tmp_path / "flat.csv", index=False)
    assert read_examples(read_table(tmp_path / "flat.csv"), task).labels.tolist() == examples.labels.tolist()
    # Two labels of one name keep their paths.
    for row in rows:
        row["label"] = {"joy": "1"}
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "d.jsonl")[1].labels == ["labels.joy", "labels.fear", "label.joy"]


def test_rows_within_an_object(tmp_path, capsys):
    rows = [dict(zip(ROWS[0], row)) for row in ROWS[1:]]
    for indent in (None, 2):
        (tmp_path / "d.json").write_text(json.dumps({"version": "1.1", "data": rows}, indent=indent))
        check(*read(tmp_path / "d.json"))
        assert 'its rows are those of "data"' in capsys.readouterr().err
    (tmp_path / "d.json").write_text(json.dumps({"train": rows, "test": rows}))
    with pytest.raises(UserError, match="several lists of rows, train, test: save the one"):
        read(tmp_path / "d.json")
    for orient in ("columns", "dict of lists"):
        columns = pd.DataFrame(rows).to_json() if orient == "columns" else pd.DataFrame(rows).to_dict("list")
        (tmp_path / "d.json").write_text(columns if isinstance(columns, str) else json.dumps(columns))
        with pytest.raises(UserError, match=r"holds columns, not rows, .*orient=.records., lines=True"):
            read(tmp_path / "d.json")
    (tmp_path / "d.jsonl").write_text(json.dumps(rows[0] | {"labels": [{"name": "joy"}]}))  # a single row
    assert read(tmp_path / "d.jsonl", label_columns=["joy", "fear"])[0].ids == ["007"]
    (tmp_path / "d.jsonl").write_text('{"text": "a",}\n{"text": "b"}\n')
    with pytest.raises(UserError, match=r"d\.jsonl, row 1, is no JSON"):
        read(tmp_path / "d.jsonl")


def test_a_name_with_a_point_is_a_name(tmp_path):
    rows = [{"id": row[0], "text": row[1], "a.joy": row[2], "a": "x", "fear": row[3]} for row in ROWS[1:]]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "d.jsonl")[1].labels == ["a.joy", "fear"]
    rows[0]["b"], rows[0]["b.c"] = {"c": 1}, 2
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r'two columns named "b\.c"'):
        read(tmp_path / "d.jsonl")


# Columns


def test_several_text_columns(tmp_path):
    rows = [["ID", "title", "body", "joy", "fear"], ["1", "A", "b c", "1", "0"], ["2", "", "d", "0", "1"],
            ["3", "E", " ", "1", "1"]]  # fmt: skip
    path = tmp_path / "d.csv"
    path.write_text(delimited(rows=rows))
    examples, task = read(path, text_column=["title", "body"])
    assert examples.texts == ["A\nb c", "d", "E"]
    assert read(path, text_column=["title", "body"], text_separator=" [SEP] ")[0].texts[0] == "A [SEP] b c"
    assert read(path, text_column=["body", "title"], text_separator="\\t")[0].texts[0] == "b c\tA"
    assert task.text_columns == ["title", "body"]
    path.write_text(delimited(rows=[*rows, ["4", "", "", "0", "0"]]))
    with pytest.raises(UserError, match='row 5, column "title" has no text nor in body'):
        read(path, text_column=["title", "body"])
    with pytest.raises(UserError, match="a column is named twice"):
        read(path, text_column=["title", "title"])


def test_ids_under_a_name_of_their_own_are_told(tmp_path, capsys):
    """A column that is another in each row may hold the ids, which a submission needs."""
    rows = [
        ["ticket", "text", "channel", "joy", "fear"],
        *([f"T-{row[0]}", row[1], "mail", *row[2:]] for row in ROWS[1:]),
    ]
    (tmp_path / "d.csv").write_text(delimited(rows=rows))
    files = {"train_file": str(tmp_path / "d.csv"), "validation_file": str(tmp_path / "d.csv")}
    read_training_data(DataArguments(**files), 0)
    assert '"ticket" is another in each row: --id_column ticket takes it for the ids' in capsys.readouterr().err
    train, _, task = read_training_data(DataArguments(**files, id_column="ticket"), 0)
    assert (task.id_column, train.ids) == ("ticket", ["T-007", "T-8", "T-9"])
    assert "is another in each row" not in capsys.readouterr().err


def test_titles_beside_the_text_are_told(refused, tmp_path, capsys):
    """With the flag that joins them."""
    rows = [["id", "title", "body", "joy", "fear"], ["1", "A", "b c", "1", "0"], ["2", "D", "d", "0", "1"]]
    path = tmp_path / "d.csv"
    path.write_text(delimited(rows=rows))
    read_training_data(DataArguments(train_file=str(path), validation_file=str(path)), 0)
    assert '"title" is not read: --text_column title body joins both' in capsys.readouterr().err
    path.write_text(delimited(rows=[["id", "headline", "story", "joy", "fear"], *rows[1:]]))
    assert "or join several: --text_column headline story" in refused(
        run_classifier.main, *training_flags("no-such-model", tmp_path / "run", train_file=path)
    )
    nested = [{"data": {"title": row[1], "story": row[2]}, "joy": row[3], "fear": row[4]} for row in rows[1:]]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, nested)))
    with pytest.raises(UserError, match=r"--text_column data\.title data\.story"):
        read(tmp_path / "d.jsonl")


@pytest.mark.parametrize("name", ["ID", "Id", "index", "Index"])
def test_ids_by_any_name(tmp_path, name):
    (tmp_path / "d.csv").write_text(delimited(rows=[[name, *ROWS[0][1:]], *ROWS[1:]]))
    examples, task = read(tmp_path / "d.csv")
    assert (task.id_column, examples.ids) == (name, ["007", "8", "9"])


def test_what_was_meant_is_named_only_where_it_is_near(refused, tmp_path):
    assert nearest("Tweeet", ["ID", "Tweet", "joy"]) == "Tweet"
    assert nearest("body", ["ID", "Tweet", "joy"]) is None
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run", text_column="Twet"))
    assert 'did you mean "Tweet"?' in line
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run", text_column="abcdef"))
    assert "did you mean" not in line
    assert "it has: ID, Tweet" in line
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run"), "--colour", "red")
    assert line == "error: unknown flag --colour"
    assert "did you mean --max_length?" in refused(
        run_classifier.main, *training_flags("m", tmp_path / "run"), "--maxlength", "8"
    )
