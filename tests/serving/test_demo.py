"""The demo page: what it computes and keeps, and its HTTP interface in a process of its own."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demo
from conftest import SAMPLE, free_port
from counting import counting
from demo_server import served_demo
from finished_runs import copy_run
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.data.task import Task
from utils.data.training_data import read_training_data
from utils.runs.folder import load_task
from utils.serving.corrections import CHANGED, KNOWN, NEW, Corrections
from utils.serving.examples import about
from utils.serving.predictor import UNEXPECTED, as_json, short_names, split_parts
from utils.serving.shown import answer_html, words_html

pytest.importorskip("gradio", reason="the extra is not installed: requirements-demo.txt")

WAITING, MOST_ROWS = 8, 150


@given(st.text("ab \n\té😂", max_size=300), st.integers(1, 50))
def test_parts_make_up_the_text(text, most):
    parts = split_parts(text, most)
    assert "".join(parts) == (text if text.strip() else "")
    assert len(parts) <= most
    assert all(part.strip() for part in parts)


def test_leaving_a_word_out_says_what_it_carried():
    predictor = counting("joy", "fear")
    parts = predictor.leave_out("joy and no fear but joy", 0, "joy")
    assert "".join(part for part, _ in parts) == "joy and no fear but joy"
    # With both words 1 - 1/8; without one of them 1 - 1/4.
    assert [(part.strip(), value) for part, value in parts if value] == [("joy", 0.125), ("joy", 0.125)]
    assert predictor.leave_out("joy", 0, "joy") == [("joy", 0.0)]
    shown = words_html(parts, "run0", "joy")
    assert shown.count("joy +0.125") == 2
    assert "occlusion" in shown


def test_several_runs_and_a_generator():
    predictor = counting("joy", "fear", thresholds=(0.6, 0.9, 0.4))
    (answer,) = predictor.predict(["joy joy"])
    assert answer.given.tolist() == [[True, False], [False, False], [True, True]]
    said = as_json(predictor, answer)
    assert said["labels"] == ["joy"]  # two of three
    assert said["probabilities"] == {"joy": 0.875, "fear": 0.5}
    assert {name: run["labels"] for name, run in said["runs"].items()} == {
        "run0": ["joy"],
        "run1": [],
        "run2": ["joy", "fear"],
    }
    assert said["runs"]["run2"]["answer"] == ["joy"]
    shown = answer_html(predictor, answer, [])
    assert "run2 answers: <strong>joy</strong>" in shown
    assert "2 of 3" in shown
    assert "1 of 3" in shown


def test_a_text_that_fails_does_not_keep_those_predicted_with_it(capsys):
    predictor = counting("joy", "fear", thresholds=(0.6, 0.9))
    texts = ["joy", "joy (NaN)", "fear fear", "joy (crash)", ""]
    answers = predictor.predict(texts)
    assert [isinstance(answer, str) for answer in answers] == [False, True, False, True, False]
    assert "run0 gives a probability that is NaN" in answers[1]
    assert answers[3] == UNEXPECTED
    assert "a fault of a library" in capsys.readouterr().err
    for text, answer in zip(texts, answers):
        if not isinstance(answer, str):
            assert as_json(predictor, answer) == as_json(predictor, *predictor.predict([text]))


def test_one_text_passes_a_list():
    predictor = counting("joy", "fear")
    (model,) = (run.approach for run in predictor.runs)
    model.pause = 0.05
    with ThreadPoolExecutor(1) as pool:
        listed = pool.submit(predictor.predict, [f"a list {'x' * i}" for i in range(20 * predictor.batch_size)])
        while not model.seen:
            time.sleep(0.01)
        predictor.predict(["one text"])
        answers = listed.result()
    assert ["one text"] in model.seen[:-1]
    assert len(model.seen) == 21
    assert [answer.text.count("x") for answer in answers] == list(range(len(answers)))


def test_each_run_is_named_with_its_own_scores(trained, tmp_path):
    other = copy_run(trained, tmp_path / "other")
    results = read_json(other / "all_results.json") | {"eval_samples": 77, "eval_f1_macro_tuned": 0.123}
    write_json(other / "all_results.json", results)
    assert short_names([str(trained), f"{other}/", "me/model"]) == ["trained", "other", "model"]
    assert short_names(["me/model", "you/model"]) == ["me/model", "you/model"]
    first, second, brackets = about([str(trained), str(other)], ["trained", "other"])
    assert "95 % interval" in brackets
    assert first.startswith("trained: ")
    assert "on 124 validation rows" in first
    assert second.startswith("other: ")
    assert re.search(r"macro-F1 0\.123 \[.+\] on 77 validation rows", second)
    assert not about([str(trained)], ["trained"])[0].startswith("trained")


def test_texts_with_one_label():
    predictor = counting("joy", "fear", single_label=True)
    (answer,) = predictor.predict(["fear"])
    assert as_json(predictor, answer)["labels"] == ["fear"]
    assert "The likeliest label is given" in answer_html(predictor, answer, [])


@given(st.text("<>&\"'/=scriptonerror\x1b\u202e${}`"), st.text("<>&\"'b", min_size=1))
def test_texts_and_names_are_shown_as_text(text, label):
    predictor = counting(label, "fear", thresholds=(0.6, 0.6))
    (answer,) = predictor.predict([text])
    shown = answer_html(predictor, answer, ["run0"])
    if text.strip():
        shown += words_html(predictor.leave_out(text, 0, label), "run0", label)
    tags = set(re.findall(r"<[^>]*>?", shown))
    assert all(re.match(r"</?(p|div|span|strong|small|i|b|ul|li|br)[ >]", tag) for tag in tags)
    inside = re.sub(r"<[^>]*>", "", shown)
    assert not re.search(r"[<>\x1b\u202e]", inside)
    for attributes in re.findall(r"<\w+ ([^>]*)>", shown):
        assert re.fullmatch(r'([\w-]+="[^"]*" ?)*', attributes)


def test_corrections_are_training_rows(trained, tmp_path):
    task = load_task(trained)
    rows = [('He said "no", \n=SUM(A1) <b>', ["anger", "fear"]), ("fine by me", [])]
    corrections = Corrections(tmp_path / "corrections.csv", task)
    assert [corrections.add(text, labels) for text, labels in rows] == [(1, NEW), (2, NEW)]
    assert corrections.add("fine by me", []) == (2, KNOWN)
    again = Corrections(tmp_path / "corrections.csv", task)
    assert again.add("again\r" * 3, ["fear"]) == (3, NEW)
    assert again.add("again\r" * 3, ["joy"]) == (3, CHANGED)
    files = {"train_file": str(tmp_path / "corrections.csv"), "validation_file": str(SAMPLE / "validation.csv")}
    train, _, found = read_training_data(DataArguments(**files), seed=0)
    assert found.labels == task.labels
    assert train.texts[:2] == [text for text, _ in rows]
    assert train.labels.sum(axis=1).tolist() == [2, 0, 1]
    (tmp_path / "other.csv").write_text("text,joy\n")
    with pytest.raises(UserError, match="has other columns"):
        Corrections(tmp_path / "other.csv", task)


def test_corrections_of_several_pages_in_one_file(tmp_path):
    task = Task(["joy", "fear"], ["text"], ["joy", "fear"])

    def add(page):
        corrections = Corrections(tmp_path / "corrections.csv", task)
        return [corrections.add(f"{page} says {number}", ["joy"]) for number in range(20)]

    with ThreadPoolExecutor(4) as pages:
        said = [number for numbers in pages.map(add, range(4)) for number, _ in numbers]
    assert sorted(said) == list(range(1, 81))
    assert len(pd.read_csv(tmp_path / "corrections.csv")) == 80


@pytest.mark.parametrize("host", ["é" * 300, "no.such.host.invalid", "a\0b", ""])
def test_hosts_that_are_none(refused, trained, host):
    assert "--host" in refused(demo.main, "--model", trained, "--host", host)


def test_corrections_in_a_column_of_lists(tmp_path):
    task = Task(["joy", "fear"], ["text"], ["emotions"], label_delimiter=";")
    corrections = Corrections(tmp_path / "corrections.csv", task)
    for number, labels in enumerate((["fear", "joy"], ["joy"], [])):
        corrections.add(f"text {number}", labels)
    assert list(pd.read_csv(tmp_path / "corrections.csv", keep_default_na=False)["emotions"]) == ["joy;fear", "joy", ""]
    one = Corrections(tmp_path / "one.csv", Task(["joy", "fear"], ["text"], ["emotion"], single_label=True))
    with pytest.raises(UserError, match="one label"):
        one.add("some text", [])


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    flags = ["--max_waiting", WAITING, "--max_rows", MOST_ROWS]
    with served_demo(trained, tmp_path_factory.mktemp("demo"), *flags) as served:
        yield served


@pytest.fixture(scope="module")
def rows(trained):
    """Validation texts and the labels' probabilities, as the run has kept them."""
    saved = pd.read_parquet(trained / "predictions" / "validation.parquet")
    return list(saved["text"]), saved[[f"probability/{x}" for x in load_task(trained).labels]].to_numpy()


@pytest.mark.processes
def test_programs_call_it(server, trained, rows):
    texts, saved = rows
    labels = load_task(trained).labels
    status, many = server.call("predict_many", texts[:40])
    assert status == 200
    found = np.array([[row["probabilities"][label] for label in labels] for row in many])
    assert np.abs(found - saved[:40]).max() < 0.01
    assert server.call("predict", texts[0])[1]["probabilities"] == pytest.approx(many[0]["probabilities"], abs=0.01)
    for wrong, told in (("", "no text"), (None, "no text"), (7, "no text"), ("x" * 100_000, "100,000 characters")):
        assert told in server.call("predict", wrong)[1]["error"]
    assert server.call("predict_many", ["fine", " "]) == (500, "text 2: There is no text: type one.")
    assert "at most 150" in server.call("predict_many", ["x"] * 151)[1]
    assert "list of texts" in server.call("predict_many", [])[1]


@pytest.mark.processes
def test_a_crowd_is_answered_or_turned_away(server, rows):
    texts, _ = rows
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda text: server.call("predict", text), texts[:60]))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= WAITING
    assert all("Queue is full" in said for status, said in answers if status == 503)
    assert server.call("predict", texts[0])[0] == 200


def test_mistakes(trained, server, tmp_path, refused):
    flags = ["--model", trained]
    assert "choose another port" in refused(demo.main, *flags, "--port", server.port)
    assert "must end in .csv" in refused(demo.main, *flags, "--port", free_port(), "--corrections_file", "x.txt")
    assert "is not the folder of a run" in refused(demo.main, "--model", tmp_path, "--port", free_port())
    assert "--model is missing" in refused(demo.main)
    assert "--max_rows 0" in refused(demo.main, *flags, "--max_rows", 0)
    assert "an address of this machine" in refused(demo.main, *flags, "--host", "203.0.113.1")
