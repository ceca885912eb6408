"""report.html and the pictures: self-contained, escaped, of every shape of task."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import compare_runs
from conftest import run_script
from finished_runs import copy_run, guesses
from utils.core.files import read_json, write_json
from utils.doctor.finding import Diagnosis
from utils.report import __main__ as report
from utils.report import pictures
from utils.report.page import MISTAKES, mistakes_rows, write_run_report
from utils.runs.finished import read_run
from utils.scoring.bootstrap import interval, resample_each
from utils.scoring.predictions import PREDICTIONS_FILE, Predictions
from utils.scoring.reliability import calibrate_out_of_sample, reliability
from utils.scoring.scores import OF_PREDICTIONS, OF_PROBABILITIES

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes and the tags they stand in, and the texts of table cells and paragraphs."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.tables, self.paragraphs, self.headings = [], [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), list(self.open)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "p":
            self.paragraphs.append("")
        elif tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = self.open[-1][0] if self.open else ""
        if inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif inside in ("p", "h2"):
            {"p": self.paragraphs, "h2": self.headings}[inside][-1] += data


def check_page(path):
    """Assert that a page needs nothing but itself and fits a phone; returns it parsed."""
    page = Page(path)
    names = [tag for tag, _, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "base", "svg", "form"} & set(names)
    for tag, attributes, around in page.tags:
        for name in ("src", "href", "srcset", "action", "style"):
            if name in attributes:
                assert (tag, name) == ("img", "src")
                assert attributes[name].startswith("data:image/svg+xml;base64,")
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["alt"]
        if tag == "table":
            assert around[-1][1].get("class") == "scroll"
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert ".scroll { overflow-x: auto;" in style
    viewports = [attributes for tag, attributes, _ in page.tags if attributes.get("name") == "viewport"]
    assert viewports[0]["content"].startswith("width=device-width")
    return page


NASTY = '<script>alert("x")</script> & <img src=http://example.org/x.png> \' {{ 7 * 7 }} [0] 😂'


@pytest.fixture(scope="module")
def run_page(trained, tmp_path_factory):
    """A run whose surest mistake is a text full of markup, its report written, and the page parsed."""
    results = {"trainable_parameters": 35, "total_parameters": 1000, "peak_memory_bytes": 2**30}
    folder = copy_run(trained, tmp_path_factory.mktemp("reports") / "<b>run", guesses(0, 1), results=results)
    frame = pd.read_parquet(folder / PREDICTIONS_FILE)
    frame.loc[7, "text"] = NASTY
    frame.loc[7, [name for name in frame if name.startswith("probability/")]] = 0.999
    frame.to_parquet(folder / PREDICTIONS_FILE, index=False)
    return folder, check_page(write_run_report(folder))


def test_report_of_a_run(run_page):
    folder, page = run_page
    assert page.headings == [
        "What the doctor says",
        "Against simple methods",
        "Scores",
        "Labels",
        "Pictures",
        "Most confident mistakes",
        "Labels that look like mistakes",
        "What was looked at",
        "Arguments",
    ]
    findings, methods, scores, labels, mistakes, suspects, checks, arguments = page.tables
    diagnosis = Diagnosis.load(folder)
    assert page.paragraphs[1] == diagnosis.headline
    assert findings[1:] == [
        [". ".join(filter(None, (one.what, diagnosis.consequences(one)))), one.severity, one.remedy]
        for one in diagnosis.findings
    ]
    assert [row[0] for row in methods[1:]] == ["this model", "the frequent labels, always"]
    assert [row[0] for row in checks[1:]] == [check.title for check in diagnosis.checks]
    run = read_run(folder)
    assert [row[0] for row in labels[1:]] == run.task.labels
    assert labels[1][-1] == f"{run.thresholds.values[0]:.3f}"
    assert labels[1][1].startswith(f"{run.results['eval_f1/anger']:.3f}\n[0.")
    assert scores[0] == ["score", "at 0.5", "tuned (cross-fitted)"]
    assert scores[1][2].startswith(f"{run.results['eval_f1_macro_tuned']:.3f}\n[0.")
    assert scores[3][0] == "samples-F1"
    assert all("\n[0." in row[1] for row in scores[1:])
    assert ["learning_rate", "0.003"] in arguments
    assert "head, full; trainable 3.5 %; training rows 520;" in page.paragraphs[0]
    assert "peak memory 1.0 GiB" in page.paragraphs[0]
    assert "0 of 124 validation rows have a near-duplicate in training." in page.paragraphs
    assert any("as the best of 2 evaluations by map: by that alone" in text for text in page.paragraphs)
    assert "<b>run" not in page.source
    assert len(mistakes) == MISTAKES + 1
    # On a phone, where the header is not shown, each cell says what it is.
    named = [attributes["data-name"] for _, attributes, _ in page.tags if "data-name" in attributes]
    assert named == [*findings[0] * (len(findings) - 1), *mistakes[0] * MISTAKES, *suspects[0] * (len(suspects) - 1)]


def test_texts_are_escaped(run_page):
    _, page = run_page
    mistakes, suspects = page.tables[4:6]
    assert mistakes[1][0] == suspects[1][0] == NASTY
    assert mistakes[1][3].endswith("wrongly given at 1.00")
    assert suspects[1][1].endswith(": no")
    assert suspects[1][2] == "0.001"
    assert "<script" not in page.source
    assert "49" not in mistakes[1][0]


def test_pictures_are_saved(run_page):
    folder, page = run_page
    names = ["calibration", "co_occurrence", "label_f1", "precision_recall", "training_curves"]
    files = sorted((folder / "pictures").iterdir())
    assert [path.name for path in files] == [f"{name}.png" for name in names]
    for path in files:
        with Image.open(path) as image:
            assert image.width == 880
            assert len(image.convert("L").getcolors()) > 10  # something is drawn
    assert sum(tag == "img" for tag, _, _ in page.tags) == 5
    # Made again, the page is the same to the letter.
    assert write_run_report(folder).read_text(encoding="utf-8") == page.source


def test_run_without_a_log(trained, tmp_path):
    folder = copy_run(trained, tmp_path / "old")
    for name in ("trainer_state.json", "doctor.json"):
        (folder / name).unlink()
    results = read_json(folder / "all_results.json")
    write_json(
        folder / "all_results.json", {name: value for name, value in results.items() if "parameters" not in name}
    )
    page = check_page(write_run_report(folder))
    assert page.headings[0] == "Scores"
    assert len(page.tables) == 5
    # The predictions and their texts are all that cross-fitting takes.
    assert _tuned(folder) == pytest.approx(results["eval_f1_macro_tuned"])
    assert sum(tag == "img" for tag, _, _ in page.tags) == 4
    assert "trainable" not in page.paragraphs[0]


def _tuned(folder):
    from utils.scoring.bootstrap import plain_scores

    run = read_run(folder)
    return plain_scores(run.predictions.truth, run.decisions["_tuned"])["f1_macro"]


def test_report_of_a_comparison(trained, tmp_path, refused):
    good = copy_run(trained, tmp_path / "good", guesses(0, 1.2), learning_rate=1.0)
    seeds = [copy_run(trained, tmp_path / f"s<{seed}>", guesses(seed, 1), seed=seed) for seed in (1, 2)]
    half = copy_run(trained, tmp_path / "half", rows=range(60), learning_rate=7.0)
    target, picture = tmp_path / "comparison.html", tmp_path / "comparison.png"
    assert "scored on the same rows" in refused(compare_runs.main, good, half, "--html", target, "--picture", picture)
    assert not target.exists()
    assert "must end in .png" in refused(compare_runs.main, good, "--picture", tmp_path / "comparison.jpg")
    compare_runs.main([*map(str, (good, *seeds)), "--picture", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    compare_runs.main([*map(str, (good, *seeds, half, tmp_path)), "--html", str(target)])
    page = check_page(target)
    assert page.headings == [
        "Scores, row set 1 of 2",
        "macro-F1 against good, row set 1 of 2",
        "F1 of each label, row set 1 of 2",
        "Arguments in which the runs differ, row set 1 of 2",
        "Scores, row set 2 of 2",
        "Left out or kept apart",
    ]
    assert [row[0] for row in page.tables[0][1:]] == ["good", "s<{1>,2>}"]
    assert ["learning_rate", "1.0", "0.003"] in page.tables[3]
    # A phone shows the first columns: scores, and what they are below them.
    assert page.tables[0][0][1:4] == ["macro-F1 at 0.5", "macro-F1 tuned", "against the best"]
    source = target.read_text(encoding="utf-8")
    assert source.index("macro-F1 at 0.5</th>") < source.index("near-duplicates drawn together")
    assert len(page.tables[2]) == 12
    assert page.paragraphs[0] == "4 runs, the best first."
    assert any("different sets of rows" in paragraph for paragraph in page.paragraphs)


def test_report_command(trained, tmp_path, refused):
    folder = copy_run(trained, tmp_path / "run")
    done = run_script("-m", "utils.report", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {folder / 'report.html'}\n"
    assert (folder / "report.html").exists()
    assert "name the folders" in refused(report.main)
    assert "is not the folder of a run" in refused(report.main, tmp_path)


def test_mistakes_are_the_surest_first_and_each_text_once():
    truth = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    probabilities = np.array([[0.9, 0.1], [0.7, 0.6], [0.05, 0.2], [0.4, 0.9]])
    predictions = (probabilities >= 0.5).astype(int)
    texts = ["right", "two wrong", "missed", "right too"]
    rows = mistakes_rows(Predictions(["a", "b"], texts, texts, truth, probabilities), predictions)
    assert rows == [
        ["missed", "a, b", "(none)", "a missed at 0.05"],
        ["two wrong", "(none)", "a, b", "a wrongly given at 0.70"],
    ]
    assert len(mistakes_rows(Predictions(["a", "b"], texts, texts, truth, probabilities), 1 - truth, most=3)) == 3


def test_calibration_error():
    # Two bins: 0.2 with a fifth true (right), 0.9 with half of them true (0.4 off), half of the cells each.
    truth = np.array([[1, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0]])
    probabilities = np.array([[0.2] * 5, [0.9] * 5, [0.2] * 5, [0.9] * 5])
    found = reliability(truth, probabilities)
    assert found.counts.tolist() == [0, 0, 10, 0, 0, 0, 0, 0, 0, 10]
    assert found.predicted[[2, 9]] == pytest.approx([0.2, 0.9])
    assert found.true[[2, 9]] == pytest.approx([0.2, 0.5])
    assert np.isnan(found.true[0])
    assert found.error == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert reliability([[1, 0]], [[1.0, 0.0]]).error == 0
    # Cells that are not known do not count.
    more = np.concatenate([truth, np.full((4, 5), np.nan)]), np.concatenate([probabilities, np.full((4, 5), 0.5)])
    assert reliability(*more).counts.tolist() == found.counts.tolist()
    assert reliability(*more).error == pytest.approx(0.2)


def test_calibration_out_of_sample_brings_the_error_down():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(1500, 4))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    probabilities, groups = 1 / (1 + np.exp(-(1.8 * logits + 1))), np.arange(1500) // 2
    before, after = (
        reliability(truth, one, groups)
        for one in (probabilities, calibrate_out_of_sample(probabilities, truth, groups))
    )
    assert after.high < before.low
    assert after.low < 0.02
    # A row's own truth is not in its probability, nor is that of its near-duplicates.
    other = truth.copy()
    other[:2] = 1 - other[:2]
    same = [calibrate_out_of_sample(probabilities, one, groups)[:2] for one in (truth, other)]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("labels", [2, 11, 150])
def test_pictures_for_few_and_many_labels(labels, tmp_path):
    rng = np.random.default_rng(0)
    truth = (rng.random((80, labels)) < 0.3).astype(int)
    truth[:, 0] = 0  # a label no row has
    probabilities = guesses(0, 1)(truth)
    names = [f"a label with a name that is long and ${i}" for i in range(labels)]
    f1 = rng.random(labels)
    drawn = {
        "f1": pictures.label_f1(names, f1, f1 / 2, (1 + f1) / 2, truth.sum(axis=0)),
        "curves": pictures.precision_recall(names, truth, probabilities, np.full(labels, 0.5)),
        "together": pictures.co_occurrence(names, truth, probabilities > 0.5),
        "calibration": pictures.calibration(reliability(truth, probabilities), reliability(truth, probabilities)),
        "scores": pictures.score_intervals(names[:40], f1[:40], f1[:40] / 2, (1 + f1[:40]) / 2, "macro-F1"),
    }
    words = {name: " ".join(text.get_text() for text in figure.findobj(_is_text)) for name, figure in drawn.items()}
    for name, most in (("f1", 40), ("curves", 12), ("together", 12)):
        assert (f"the {most} most frequent of 150 labels" in words[name]) == (labels == 150)
    for name, figure in drawn.items():
        pictures.save_png(figure, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width == 880
            assert image.height < 2400
        assert len(pictures.data_uri(figure)) < 1_000_000


def _is_text(artist):
    return hasattr(artist, "get_text")


def test_co_occurrence_holds_true_and_predicted_counts():
    truth = np.array([[1, 1], [1, 1], [1, 0]])
    figure = pictures.co_occurrence(["a", "b"], truth, np.array([[1, 1], [0, 1], [0, 0]]))
    below, above = np.array(figure.axes[0].images[0].get_array())[[1, 0], [0, 1]]
    assert (below, above) == (2, 1)


def test_threshold_is_marked_where_its_predictions_are():
    truth = np.array([[1], [1], [0], [0], [1]])
    probabilities = np.array([[0.9], [0.6], [0.7], [0.2], [0.1]])
    figure = pictures.precision_recall(["a"], truth, probabilities, [0.5])
    diamond = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == pytest.approx((2 / 3, 2 / 3))


def test_training_curves():
    log = [
        {"step": 1, "loss": 0.7},
        {"step": 2, "loss": 0.5},
        {"step": 2, "eval_loss": 0.6, "eval_f1_macro": 0.2, "eval_f1_macro_decoded": 0.3},
        {"step": 2, "train_runtime": 1.0},
    ]
    figure = pictures.training_curves(log, best_step=2)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "validation macro-F1"]
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines["training"] == [[1, 0.7], [2, 0.5]]
    assert lines["decoded"] == [[2, 0.3]]
    assert "tuned" not in lines
    assert len(pictures.training_curves(log[:2]).axes) == 1
    assert pictures.has_training_curves(log)
    assert not pictures.has_training_curves(log[3:])


def test_every_score_on_the_card_and_in_the_report_has_its_interval(trained, tmp_path):
    reported = write_run_report(copy_run(trained, tmp_path / "run")).read_text(encoding="utf-8")
    run, card = read_run(trained), (trained / "README.md").read_text(encoding="utf-8")
    arrays = (run.predictions.truth, run.decisions, run.predictions.probabilities, run.predictions.near_duplicates)
    drawn = resample_each(*arrays)
    shown = [f"{score.name}{kind}" for kind in ("", "_tuned") for score in OF_PREDICTIONS]
    for name in (*shown, *(score.name for score in OF_PROBABILITIES)):
        value, kind = run.results[f"eval_{name}"], "_tuned" if name.endswith("_tuned") else ""
        low, high = interval(drawn[kind][name.removesuffix("_tuned")], value)
        assert low <= value <= high
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in card
        assert (run.results[f"eval_{name}_low"], run.results[f"eval_{name}_high"]) == pytest.approx((low, high))
    for what in ("precision", "recall", "f1"):
        values = np.array([run.results[f"eval_{what}/{label}"] for label in run.task.labels])
        for value, low, high in zip(values, *interval(drawn["_tuned"][what], values)):
            assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in card
            assert f"{value:.3f}\n[{low:.3f}, {high:.3f}]" in reported
    assert "In brackets: 95 % bootstrap interval over the rows; the luck of the training seed is not in it." in card
