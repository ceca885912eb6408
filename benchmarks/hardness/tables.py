"""Tables: written in every format, damaged or not, read whole and in chunks.

What is read must be what was written, or be refused in one line; a damage may not take rows away in silence.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

NAMES = ["joy", "fear", "no, not me", "ärger|wut"]
FORMATS = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
FILE_NAMES = [
    "rows",
    "a*b",
    "wh?t",
    "x[ab]y",
    "with blank",
    "ünïcode",
    "{a,b}",
    "-dash",
    "quo'te",
    "train-00000-of-00001",
]
DAMAGES = (
    *("none",) * 4, "quote", "quote", "cut", "byte", "nul", "not utf-8", "twice", "no delimiter", "crlf", "mark",
    "blank lines", "same size", "label cell", "label cell", "same id", "no id", "header twice", "header only", "empty",
)  # fmt: skip
LABEL_CELLS = ["yes", "no", "2", "-1", "NaN", "TRUE", "", "0.5", "1e0", "one", " 1 ", "None", "1" * 5000]

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00\r\n", exclude_categories=("Cs",)), min_size=1, max_size=40
).filter(lambda text: text.strip() and len(text.splitlines()) == 1)
WORDS = ["so", "it", "begins", "and,", "again", '"quoted"', "'single'", "#tag", "@user", "1", "0"]
plain_words = st.lists(st.sampled_from(WORDS), min_size=1)
ids = st.one_of(
    st.integers(0, 10**6).map(str),
    st.integers(2**63, 10**30).map(str),
    st.integers(0, 99).map(lambda number: f"{number:04d}"),
    st.integers(0, 99).map(lambda number: f"{number}.0"),
    st.integers(0, 99).map(lambda number: f"{number}e5"),
    st.sampled_from(["nan", "NA", "null", "true", "-0", "1_000", "0x10", "inf", "É", "a b"]),
    st.text("abcdef-:_", min_size=1, max_size=8),
)


@dataclass
class Case:
    """A table to write and read: its rows, format and damage."""

    ids: list[str]
    texts: list[str]
    labels: list[list[int]]
    names: list[str]
    suffix: str
    name: str
    damage: str
    seed: int
    listed: bool  # one column of label lists
    text_last: bool
    multiline: bool
    notes: list[str] = field(default_factory=list)

    def __str__(self):
        return f"{self.damage} in {self.name}{self.suffix}, {len(self.ids)} rows, seed {self.seed}"


@st.composite
def cases(draw: Any) -> Case:
    """Any table with two labels or more, and what happens to it."""
    rows = draw(st.integers(4, 14))
    found = draw(st.lists(ids, min_size=rows, max_size=rows, unique=True))
    rng = random.Random(draw(st.integers(0, 2**32)))
    some = draw(st.lists(st.one_of(texts, plain_words.map(" ".join)), min_size=rows, max_size=rows))
    names = NAMES[: draw(st.integers(2, 4))]
    labels = [[rng.randint(0, 1) for _ in names] for _ in range(rows)]
    for column in range(len(names)):
        labels[column % rows][column] = 1
    suffix = draw(st.sampled_from(FORMATS))
    multiline = draw(st.booleans()) and suffix != ".txt"
    if multiline:
        some[0] += "\nand, so\non"
    if suffix == ".txt":
        some = [text.replace("\t", " ") for text in some]
    return Case(
        found, [text if text.strip() else "x" for text in some], labels, names, suffix,
        draw(st.sampled_from(FILE_NAMES)), draw(st.sampled_from(DAMAGES)), rng.randrange(2**32),
        draw(st.booleans()), draw(st.booleans()), multiline,
    )  # fmt: skip


def columns(case: Case) -> dict[str, list[Any]]:
    """The table as columns of texts."""
    if case.listed:
        written = ["; ".join(n.replace(";", "") for n, yes in zip(case.names, row) if yes) for row in case.labels]
        labels: dict[str, list[Any]] = {"labels": written}
    else:
        labels = {name: [str(row[i]) for row in case.labels] for i, name in enumerate(case.names)}
    middle = {"text": case.texts}
    return {"id": case.ids} | (labels | middle if case.text_last else middle | labels)


def write(case: Case, path: Path) -> None:
    """Write the table whole."""
    table = columns(case)
    rows = [dict(zip(table, cells)) for cells in zip(*table.values())]
    if case.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(table).to_parquet(path, index=False)
    elif case.suffix in (".json", ".jsonl"):
        whole = json.dumps(rows) if case.suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n"
        for value in case.ids:  # numbers as numbers
            if value.isdigit() and not value.startswith("0"):
                whole = whole.replace(f'"id": "{value}"', f'"id": {value}')
        path.write_text(whole, encoding="utf-8")
    else:
        quoting = csv.QUOTE_NONE if case.suffix == ".txt" else csv.QUOTE_MINIMAL
        delimiter = "," if case.suffix == ".csv" else "\t"
        content = io.StringIO()
        if case.suffix == ".txt":
            lines = [list(table), *([row[name] for name in table] for row in rows)]
            content.write("".join(delimiter.join(line) + "\n" for line in lines))
        else:
            writer = csv.writer(content, delimiter=delimiter, quoting=quoting, lineterminator="\n")
            writer.writerows([list(table), *(row.values() for row in rows)])
        path.write_bytes(content.getvalue().encode("utf-8"))


def damage(case: Case, path: Path) -> None:
    """Do to the file what the case says."""
    rng, content = random.Random(case.seed), path.read_bytes()
    place = rng.randrange(len(content))
    lines = content.splitlines(keepends=True)
    delimited = case.suffix in (".csv", ".tsv", ".txt")
    kind = case.damage
    if kind == "cut":
        content = content[:place]
    elif kind == "byte":
        content = content[:place] + content[place + 1 :]
    elif kind == "nul":
        content = content[:place] + b"\0" + content[place:]
    elif kind == "not utf-8":
        content = content[:place] + b"\xe9" + content[place:]
    elif kind == "empty":
        content = b""
    elif kind == "quote" and delimited:
        # Before a cell, where a parser takes it for the beginning of a quoted one.
        mark = b"," if case.suffix == ".csv" else b"\t"
        places = [i + 1 for i, byte in enumerate(content) if content[i : i + 1] == mark and i > len(lines[0])]
        place = rng.choice(places)
        content = content[:place] + b'"' + content[place:]
    elif kind == "twice" and len(lines) > 2:
        line = rng.randrange(1, len(lines))
        content = b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
    elif kind == "no delimiter" and delimited:
        mark = b"," if case.suffix == ".csv" else b"\t"
        where = [i for i in range(len(content)) if content[i : i + 1] == mark]
        place = rng.choice(where)
        content = content[:place] + content[place + 1 :]
    elif kind == "crlf" and delimited and not case.multiline:
        content = b"\r\n".join(line.rstrip(b"\n") for line in lines) + b"\r\n"
    elif kind == "mark" and case.suffix != ".parquet":
        content = b"\xef\xbb\xbf" + content
    elif kind == "blank lines" and case.suffix != ".parquet":
        content += b"\n\n"
    elif kind == "header twice" and delimited:
        content = lines[0] + content
    elif kind == "header only":
        content = lines[0]
    else:
        return
    path.write_bytes(content)


def change_cells(case: Case) -> None:
    """Damages of single cells, made before the table is written."""
    rng = random.Random(case.seed)
    row = rng.randrange(len(case.ids))
    if case.damage == "same id":
        case.ids[row] = case.ids[row - 1]
    elif case.damage == "no id":
        case.ids[row] = ""
    elif case.damage == "label cell" and not case.listed:
        case.labels[row][rng.randrange(len(case.names))] = rng.choice(LABEL_CELLS)  # ty: ignore


def try_table(case: Case, folder: Path) -> tuple[str, str | None]:
    """Write, damage and read one table.

    Returns:
        `(what happened, what is wrong)`: read or refused; None where nothing is wrong.
    """
    from utils.core.arguments import DataArguments
    from utils.core.errors import UserError
    from utils.data.columns import read_ids, read_texts
    from utils.data.examples import read_examples
    from utils.data.find_task import find_task
    from utils.data.label_rows import read_labels
    from utils.data.tables import read_chunks, read_table

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.name}{case.suffix}"
    for other in ("aXb", "what", "xay", "a", "b"):  # what the signs in a name would match
        (folder / f"{other}{case.suffix}").write_text("not this file\n")
    change_cells(case)
    intended = columns(case)
    write(case, path)
    if case.damage == "same size":
        before = path.stat()
        read_table(path)
        case.texts = [text[::-1] if text[::-1].strip() == text[::-1] else text for text in case.texts]
        write(case, path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    damage(case, path)
    try:
        table = read_table(path)
        task = find_task(table, DataArguments(train_file=str(path)))
        examples = read_examples(table, task)
        found = examples.ids, examples.texts, examples.labels.tolist()
        parts: list[list] = [[], [], []]
        for chunk in read_chunks(path, 3):
            for part, values in zip(parts, (read_ids(chunk, task), read_texts(chunk, task), read_labels(chunk, task))):
                part.extend(values if isinstance(values, list) else values.tolist())
    except UserError as error:
        message = " ".join(str(error).split())
        if len(message) > 5000:
            return "refused", f"a message of {len(message)} characters"
        may = case.damage not in ("none", "blank lines", "mark", "crlf", "same size")
        # Lists of labels that use two signs that may divide them; a text that the whole column shares with a label.
        ambiguous = "may separate the labels" in message or "cannot tell which column" in message
        return "refused", None if may or ambiguous else f"refused: {message[:300]}"
    if [list(part) for part in found] != parts:
        return "read", "whole and in chunks differ"
    whole = case.damage in ("none", "blank lines", "mark", "crlf", "same size", "label cell")
    if whole:
        wanted = [value.strip() for value in intended["id"]]
        if found[0] != wanted:
            return "read", f"ids {found[0]} instead of {wanted}"
        if found[1] != case.texts:
            return "read", f"texts {found[1]} instead of {case.texts}"
        if (
            not case.listed
            and case.damage != "label cell"
            and found[2] != [[int(x) for x in row] for row in case.labels]
        ):
            return "read", "other labels"
        if case.damage == "label cell" and not case.listed and task.labels != case.names:
            return "read", f"labels {task.labels} instead of {case.names}"
        return "read", None
    if case.damage in ("same id", "no id"):
        return "read", "an id that is missing or stands twice was taken"
    if case.damage == "quote" and not case.multiline and len(found[0]) != len(case.ids):
        return "read", f"{len(found[0])} of {len(case.ids)} rows after a quote"
    few = len(found[0]) < len(case.ids) - 1
    if few and case.damage in ("byte", "nul") and case.suffix != ".parquet" and not case.multiline:
        return "read", f"{len(found[0])} of {len(case.ids)} rows"
    return "read", None
