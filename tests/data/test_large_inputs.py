"""Files larger than memory would hold: chunks, caches, and the same rows whatever the size of the chunks."""

import shutil
import tracemalloc

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import make_submission
from conftest import SAMPLE
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.data.columns import check_unique_ids, read_ids, read_texts
from utils.data.examples import content_hash
from utils.data.tables import read_chunks, read_table
from utils.data.task import Task
from utils.data.training_data import read_training_data
from utils.models.encoding import encode, tokenize
from utils.models.loading import load_tokenizer
from utils.runs.inference import ProbabilityFile, load_run
from utils.runs.submission import RowsToPredict, SubmissionWriter, check_rows, submission_format

TASK = Task(labels=["a", "b"], label_columns=["a", "b"], id_column="id", text_columns=["text"])


def frame_of(rows):
    return pd.DataFrame(
        {
            "id": [f"{i:04d}" for i in range(rows)],
            "text": [f'text {i}, "quoted"\nsecond line' for i in range(rows)],
            "a": np.arange(rows) % 2,
            "b": 1,
        }
    )


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    return path


# Chunks


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("rows_per_chunk", [1, 3, 7, 100])
def test_chunks_hold_the_rows_of_the_table(tmp_path, suffix, rows_per_chunk):
    path = write(frame_of(7), tmp_path / f"d{suffix}")
    chunks = list(read_chunks(path, rows_per_chunk))
    table = read_table(path)
    assert [len(chunk.rows) for chunk in chunks] == [min(rows_per_chunk, 7 - i) for i in range(0, 7, rows_per_chunk)]
    assert [chunk.start for chunk in chunks] == list(range(0, 7, rows_per_chunk))
    assert [i for chunk in chunks for i in read_ids(chunk, TASK)] == read_ids(table, TASK)
    assert [text for chunk in chunks for text in read_texts(chunk, TASK)] == read_texts(table, TASK)
    unnamed = Task(labels=["a", "b"], label_columns=["a", "b"], text_columns=["text"])
    assert [i for chunk in chunks for i in read_ids(chunk, unnamed)] == [str(i) for i in range(7)]
    assert chunks[-1].where(0) == table.where(chunks[-1].start)


@pytest.mark.parametrize("max_rows", [1, 3, 4, 7, 9])
def test_first_rows_only(tmp_path, max_rows):
    path = write(frame_of(7), tmp_path / "d.csv")
    ids = [i for chunk in read_chunks(path, 3, max_rows=max_rows) for i in read_ids(chunk, TASK)]
    assert ids == [f"{i:04d}" for i in range(min(7, max_rows))]


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_ids_that_stand_twice(tmp_path_factory, ids, rows_per_chunk):
    frame = pd.DataFrame({"id": ids, "text": "x", "a": 0, "b": 1})
    path = write(frame, tmp_path_factory.mktemp("ids") / "d.csv")

    def check():
        return check_unique_ids(lambda: read_chunks(path, rows_per_chunk), TASK)

    twice = frame["id"].duplicated()
    if not twice.any():
        assert len(set(check())) == len(ids)
        return
    row = int(twice.idxmax())
    first = ids.index(ids[row])
    with pytest.raises(UserError) as error:
        check()
    assert f'row {row + 2}, column "id": the id "{ids[row]}" stands in row {first + 2} too' in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text,a,b\n1,x,0,1\n2,,0,1\n", 'row 3, column "text" has no text'),
        ("id,text,a,b\n1,x,0,1\n,x,0,1\n", 'row 3, column "id" is empty'),
        ("id,text,a,b\n1,x,0,1\n2,x,0\n", "row 3 has 3 cells"),
        ("id,text,a,b\n1,x,0,1\n2,x,0,1,1\n", "cannot be read"),
        ('id,text,a,b\n1,x,0,1\n2,"x,0,1\n3,"y,0,1\n', "swallowed"),
        ("id,text,a,b\n", "no rows"),
    ],
)
def test_a_mistake_in_any_chunk_is_told(tmp_path, content, message):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        check_rows(lambda: read_chunks(tmp_path / "d.csv", 1), [TASK])


# Prediction


def submit(model, folder, name, *flags, probabilities="parquet"):
    files = ["--output_file", folder / f"{name}.csv", "--probabilities_file", folder / f"{name}.p.{probabilities}"]
    flags = ["--model", *model, "--test_file", SAMPLE / "test.csv", *files, *flags]
    make_submission.main([str(flag) for flag in flags])
    read = pd.read_parquet if probabilities == "parquet" else pd.read_csv
    return pd.read_csv(folder / f"{name}.csv", dtype=str), read(folder / f"{name}.p.{probabilities}")


def test_chunks_make_no_difference(trained, tmp_path, tmp_path_factory):
    twin = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "twin")
    rows = pd.read_csv(SAMPLE / "test.csv", dtype=str)
    whole = submit([trained], tmp_path, "whole")
    chunked = submit([trained], tmp_path, "chunked", "--chunk_rows", 7)
    averaged = submit([trained, twin], tmp_path, "averaged", "--chunk_rows", 50, "--threshold_strategy", "fixed")
    for submission, probabilities in (whole, chunked, averaged):
        assert list(submission["ID"]) == list(probabilities["ID"]) == list(rows["ID"])
        difference = probabilities.iloc[:, 1:].to_numpy() - whole[1].iloc[:, 1:].to_numpy()
        assert abs(difference).max() < 0.01  # other batches, other bf16 rounding
    _, as_csv = submit([trained], tmp_path, "csv", "--chunk_rows", 7, probabilities="csv")
    assert np.allclose(as_csv.iloc[:, 1:], chunked[1].iloc[:, 1:], atol=1e-12)
    assert len(list(tmp_path.iterdir())) == 8  # nothing but the files asked for


def test_probabilities_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    runs = rng.random((3, 10, 4))
    average = ProbabilityFile(tmp_path, 4)
    for run in runs:
        for start in range(0, 10, 3):
            average.add(start, run[start : start + 3])
    assert np.allclose(average.read(np.arange(10)), runs.sum(axis=0), atol=1e-12)
    assert np.allclose(average.read(np.array([6, 7])), runs.sum(axis=0)[6:8], atol=1e-12)
    assert np.allclose(average.read(np.array([9, 3, 4, 0])), runs.sum(axis=0)[[9, 3, 4, 0]], atol=1e-12)
    assert not list(tmp_path.iterdir())


def test_texts_are_predicted_in_their_order(trained):
    run = load_run(trained)
    texts = [f"{'so very ' * (i % 5)}happy #{i}" for i in range(23)]
    together = run.predict(texts, 4).probabilities
    alone = np.concatenate([run.predict([text], 1).probabilities for text in texts])
    assert together.shape == (23, len(run.task.labels))
    assert np.abs(together - alone).max() < 0.01


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Everything but the model: reading, checking, and writing, of files of which one is 10 times as long."""
    peaks = []
    for rows in (4_000, 40_000):
        path = write(pd.DataFrame({"id": range(rows), "text": "some words " * 20, "a": 0, "b": 1}), tmp_path / "d.csv")

        def chunks(path=path):
            return read_chunks(path, 1_000)

        tracemalloc.start()
        hashes = check_rows(chunks, [TASK])
        average = ProbabilityFile(tmp_path, 2)
        for chunk in chunks():
            average.add(chunk.start, np.full((len(chunk.rows), 2), 0.7))
        test = RowsToPredict("d.csv", chunks, hashes, whole=True)
        form = submission_format(test, TASK, None, 1_000)
        with SubmissionWriter(str(tmp_path / "out.csv"), None, form, TASK) as writer:
            for part in form.parts(test, TASK):
                probabilities = average.read(part.rows)
                writer.add(part, probabilities, (probabilities >= [0.5, 0.9]).astype(np.int8))
        peaks.append(tracemalloc.get_traced_memory()[1] - 16 * rows)  # hashes, and their sorted copy: 8 bytes each
        tracemalloc.stop()
        assert (len(hashes), writer.positives.tolist(), writer.without_label) == (rows, [rows, 0], 0)
        assert len(pd.read_csv(tmp_path / "out.csv")) == rows
    assert peaks[1] < 1.2 * peaks[0]


# Training data


def test_training_data_is_memory_mapped_and_tokenised_once(tiny, tmp_path, capfd):
    path = write(
        frame_of(300).assign(text=[f"some words {'again ' * (i % 9)}{i}" for i in range(300)]), tmp_path / "d.csv"
    )
    before = datasets.config.HF_DATASETS_CACHE
    found = []
    for flags in ({}, {}, {"normalize_urls": True}):
        train, validation, task = read_training_data(DataArguments(train_file=str(path), **flags), 0)
        assert train.rows.cache_files
        assert str(before) in train.rows.cache_files[0]["filename"]
        for max_length in (64, 5):
            tokenizer = load_tokenizer(tiny("roberta"))
            if max_length == 5:
                tokenizer(["used before"], truncation=True, max_length=3)  # its state must not matter
            encoded = encode(train, tokenizer, max_length)
            assert max(encoded["length"]) <= max_length
            expected = tokenize(train.texts, tokenizer, max_length)["input_ids"]
            assert all(list(a) == list(b) for a, b in zip(encoded["input_ids"], expected, strict=True))
            found.append((train.rows.cache_files[0]["filename"], encoded.cache_files[0]["filename"]))
    assert found[0:2] == found[2:4]  # the second time all of it is found in the cache
    assert found[0][1] != found[1][1]  # another limit, other tokens
    assert not set(found[0]) & set(found[4])  # other texts
    other = load_tokenizer(tiny("qwen2"))
    assert encode(train, other, 64).cache_files[0]["filename"] not in {name for _, name in found}
    assert len(train) + len(validation) == 300
    assert [*train.iter_texts(), *validation.iter_texts()] == train.texts + validation.texts
    assert validation.labels.tolist() == validation.rows["labels"][:]
    assert content_hash(train) != content_hash(train.select(range(len(train) - 1)))
    assert task.labels == ["a", "b"]


def test_cached_rows_follow_the_file(tmp_path):
    """A file that was changed is read anew, not from the cache."""
    texts = []
    for word in ("old", "new"):
        path = write(frame_of(20).assign(text=[f"{word} {i}" for i in range(20)]), tmp_path / "d.csv")
        train, *_ = read_training_data(DataArguments(train_file=str(path)), 0)
        texts.append({text.split()[0] for text in train.texts})
    assert texts == [{"old"}, {"new"}]
