"""One flag, --best_by, and everything after it follows: thresholds, checkpoint, log, card, report, comparison."""

import numpy as np
import pytest

import run_classifier
from conftest import training_flags
from finished_runs import copy_run, guesses
from utils.core.files import read_json
from utils.doctor.finding import Diagnosis
from utils.report.page import write_run_report
from utils.runs.finished import read_run
from utils.runs.manifest import write_manifest
from utils.scoring.bootstrap import plain_scores
from utils.scoring.thresholds import ThresholdRule, Thresholds


@pytest.fixture(scope="module")
def for_jaccard(tiny, tmp_path_factory):
    """A run trained for Jaccard."""
    folder = tmp_path_factory.mktemp("best_by") / "run"
    run_classifier.main(training_flags(tiny("roberta"), folder, best_by="jaccard", max_train_samples=200))
    return folder


def test_training_follows(for_jaccard):
    results, stored = read_json(for_jaccard / "all_results.json"), read_json(for_jaccard / "thresholds.json")
    assert stored["best_by"] == "jaccard"
    assert results["best_metric_name"] == "jaccard_tuned"
    history = [entry for entry in read_json(for_jaccard / "trainer_state.json")["log_history"] if "eval_loss" in entry]
    best = max(history, key=lambda entry: entry["eval_jaccard_tuned"])
    assert results["best_checkpoint_step"] == best["step"]
    run = read_run(for_jaccard)
    rule = ThresholdRule("calibrated", None, "jaccard")
    assert run.thresholds.rule == rule
    probabilities, truth = run.predictions.probabilities, run.predictions.truth
    np.testing.assert_allclose(run.thresholds.values, rule.fit(probabilities, truth).values, atol=1e-6)
    decided = rule.cross_fit(probabilities, truth, run.predictions.near_duplicates)
    assert plain_scores(truth, decided)["jaccard"] == pytest.approx(results["eval_jaccard_tuned"])


def test_what_is_shown_follows(for_jaccard, tmp_path):
    card = (for_jaccard / "README.md").read_text(encoding="utf-8")
    assert "with thresholds chosen for Jaccard;" in card
    rows = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert rows[2] == "Jaccard"
    page = write_run_report(copy_run(for_jaccard, tmp_path / "copy")).read_text(encoding="utf-8")
    scores = page[page.index("<h2>Scores</h2>") :]
    assert scores.index(">Jaccard<") < scores.index(">macro-F1<")
    assert "95 % interval of Jaccard over the rows" in page


def score_name(best_by):
    """Under which name the results have the score that a run was chosen by."""
    return f"eval_{best_by}" + ("" if best_by == "roc_auc_macro" else "_tuned")


def test_the_log_shows_the_score_first_with_half_of_its_interval(tiny, tmp_path, capsys):
    common = {"max_train_samples": 64, "num_train_epochs": 1, "save_strategy": "no", "load_best_model_at_end": False}
    for best_by, title in (
        ("exact_match", "exact match"),
        ("roc_auc_macro", "macro ROC-AUC"),
        ("f1_macro", "macro-F1"),
    ):
        run_classifier.main(training_flags(tiny("roberta"), tmp_path / best_by, best_by=best_by, **common))
        said = capsys.readouterr().out
        rows = Diagnosis.load(tmp_path / best_by).baselines
        value = read_json(tmp_path / best_by / "all_results.json")[score_name(best_by)]
        assert rows[0][best_by]["value"] == pytest.approx(value)
        assert all(row[best_by]["low"] <= row[best_by]["difference"] <= row[best_by]["high"] for row in rows[1:])
        line = next(line for line in said.splitlines() if line.startswith("epoch 1.00: validation loss"))
        results = read_json(tmp_path / best_by / "all_results.json")
        assert f", {title} {results[f'eval_{best_by}']:.3f} ± " in line
        assert line.count(title) == 1
        # Each score has half of about the interval that resampling gives.
        kinds = [""] if best_by == "roc_auc_macro" else ["", "_tuned"]
        for name in [*(f"{best_by}{kind}" for kind in kinds), "jaccard", "map", "roc_auc_micro"]:
            value, width = results[f"eval_{name}"], results[f"eval_{name}_half_width"]
            low, high = results[f"eval_{name}_low"], results[f"eval_{name}_high"]
            assert f"{value:.3f} ± {width:.3f}" in line
            assert low <= value <= high
            assert (high - low) / 2 == pytest.approx(width, rel=0.35, abs=0.003)
        assert line.count("±") == line.count(", ")  # behind all but the loss


@pytest.mark.parametrize("best_by", ["jaccard", "exact_match", "roc_auc_macro"])
def test_comparison_ranks_by_what_all_were_trained_for(trained, tmp_path, compare, best_by):
    def copy(name, skill, rule):
        folder = copy_run(trained, tmp_path / name, guesses(1, skill), learning_rate=skill)
        run = read_run(folder)
        Thresholds(run.thresholds.values, rule).save(folder, run.task.labels)
        write_manifest(folder)
        return folder

    rule = ThresholdRule("calibrated", None, best_by)
    good, bad = copy("good", 1.5, rule), copy("bad", 0.2, rule)
    records, printed, _ = compare(bad, good)
    kind = "" if best_by == "roc_auc_macro" else "_tuned"
    assert records.index.tolist() == ["good", "bad"]
    assert records["ranked_by"].tolist() == [f"{best_by}{kind}"] * 2
    assert records[f"{best_by}{kind}"].is_monotonic_decreasing
    difference = records.loc["bad", f"{best_by}{kind}"] - records.loc["good", f"{best_by}{kind}"]
    assert records.loc["bad", "difference"] == pytest.approx(difference)
    assert records.loc["bad", "verdict"] == "worse"
    title = {"jaccard": "Jaccard", "exact_match": "exact match", "roc_auc_macro": "macro ROC-AUC"}[best_by]
    assert f"{title} against good, paired bootstrap on the same rows:" in printed
    for name in ("roc_auc_macro", "jaccard_tuned", "exact_match_tuned", "map"):
        assert (records[f"{name}_low"] <= records[name]).all()
        assert (records[name] <= records[f"{name}_high"]).all()

    # Trained for another score each, they are ranked by macro-F1, and by what is asked for.
    records, printed, _ = compare(good, copy("plain", 1.0, ThresholdRule("calibrated")))
    assert set(records["ranked_by"]) == {"f1_macro_tuned"}
    assert "macro-F1 against" in printed
    records, _, _ = compare(good, bad, "--best_by", "f1_micro")
    assert set(records["ranked_by"]) == {"f1_micro_tuned"}


def test_unknown_scores_are_refused(tiny, tmp_path, refused):
    flags = training_flags(tiny("roberta"), tmp_path / "no", best_by="f1_makro")
    assert "f1_macro" in refused(run_classifier.main, *flags)
    assert not (tmp_path / "no").exists()
