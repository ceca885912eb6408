"""run_classifier.py and make_submission.py from file to submission, through their command lines."""

import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest

import make_submission
import run_classifier
from conftest import SAMPLE, WARM_PYTHON, run_script, training_flags
from finished_runs import load_predictions
from utils.runs.folder import load_task
from utils.runs.inference import load_run, predict_table
from utils.scoring.thresholds import ThresholdRule, Thresholds

LABELS = list(pd.read_csv(SAMPLE / "sample_submission.csv").columns[1:])


def test_run_folder_is_complete(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "all_results.json",
        "config.json",
        "doctor.json",
        "eval_results.json",
        "manifest.json",
        "model.safetensors",
        "predictions/validation.parquet",
        "run.log",
        "run_args.json",
        "task.json",
        "thresholds.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_results.json",
        "trainer_state.json",
    }
    task = load_task(trained)
    assert task.labels == LABELS
    assert (task.id_column, task.text_columns, task.train_rows) == ("ID", ["Tweet"], 520)
    stored = Thresholds.load(trained, LABELS)
    thresholds, strategy = stored.values, stored.rule.strategy
    assert strategy == "calibrated"
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_results_follow_from_the_saved_predictions(trained):
    frame = load_predictions(trained, LABELS)
    truth = pd.read_csv(SAMPLE / "validation.csv")
    assert list(frame["id"]) == list(truth["ID"])
    assert (frame[[f"truth/{label}" for label in LABELS]].to_numpy() == truth[LABELS].to_numpy()).all()
    results = json.loads((trained / "all_results.json").read_text())
    from sklearn.metrics import f1_score

    probabilities = frame[[f"probability/{label}" for label in LABELS]].to_numpy()
    expected = f1_score(truth[LABELS], probabilities >= 0.5, average="macro", zero_division=0.0)
    assert results["eval_f1_macro"] == pytest.approx(expected)
    assert results["eval_samples"] == len(truth)
    # The last evaluation of the best checkpoint is what the log of the training says of it.
    state = json.loads((trained / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "eval_map" in entry]
    best = max(logged, key=lambda entry: entry["eval_map"])
    for name in ("eval_map", "eval_f1_macro_tuned"):
        assert results[name] == pytest.approx(best[name], abs=1e-6)


def test_every_evaluation_has_all_scores(trained):
    state = json.loads((trained / "trainer_state.json").read_text())
    evaluations = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert len(evaluations) == 2
    for name in ("f1_macro", "f1_micro", "f1_samples", "jaccard", "exact_match", "map", "lrap", "f1_macro_tuned"):
        assert all(0 <= entry[f"eval_{name}"] <= 1 for entry in evaluations)
    for label in LABELS:
        for name in ("precision", "recall", "f1", "support", "threshold"):
            assert all(f"eval_{name}/{label}" in entry for entry in evaluations)


def test_model_learns_the_sample_data(tiny, tmp_path):
    flags = training_flags(
        tiny("qwen2"),
        tmp_path / "run",
        validation_file=SAMPLE / "train.csv",
        max_train_samples=128,
        max_eval_samples=128,
        num_train_epochs=30,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    run_classifier.main(flags)
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["eval_f1_macro"] > 0.9


def test_snippet_of_the_card_works(trained, tmp_path):
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "`text-embeddings-router --model-id FOLDER`" in card
    assert "the sigmoid of each is its label's probability" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    done = subprocess.run([WARM_PYTHON, "-c", snippet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(scores) <= set(LABELS)
    rows = pd.DataFrame({"ID": ["1"], "Tweet": ["so happy for you!! #proud"]})
    rows.to_csv(tmp_path / "one.csv", index=False)
    from utils.data.tables import read_table

    probabilities = predict_table(load_run(trained), read_table(tmp_path / "one.csv"), 1).probabilities[0]
    thresholds = Thresholds.load(trained, LABELS).values
    expected = {label for label, p, t in zip(LABELS, probabilities, thresholds) if p >= t + 0.01}
    assert expected <= set(scores)
    for label, score in scores.items():
        assert score == pytest.approx(probabilities[LABELS.index(label)], abs=0.01)  # bf16 here, fp32 in the snippet
    assert f"{json.loads((trained / 'all_results.json').read_text())['eval_f1_macro']:.3f}" in card


def test_submission_in_a_new_process(trained, tmp_path):
    """Probabilities of the validation rows, predicted by another process as if they were a test set, are the same."""
    rows = pd.read_csv(SAMPLE / "validation.csv", dtype=str)
    rows[LABELS] = "NONE"
    rows = rows.iloc[::-1]
    rows.to_csv(tmp_path / "test.csv", index=False)
    done = run_script(
        "make_submission.py",
        "--model",
        trained,
        "--test_file",
        tmp_path / "test.csv",
        "--output_file",
        tmp_path / "s.csv",
        "--probabilities_file",
        tmp_path / "p.parquet",
        "--per_device_eval_batch_size",
        7,
    )
    assert done.returncode == 0, done.stderr
    submission, probabilities = pd.read_csv(tmp_path / "s.csv"), pd.read_parquet(tmp_path / "p.parquet")
    assert list(submission.columns) == ["ID", *LABELS]
    assert list(submission["ID"]) == list(probabilities["ID"]) == list(rows["ID"])
    saved = load_predictions(trained, LABELS).set_index("id").loc[rows["ID"]]
    saved = saved[[f"probability/{label}" for label in LABELS]].to_numpy()
    assert np.abs(probabilities[LABELS].to_numpy() - saved).max() < 0.01  # other batches, other bf16 rounding
    thresholds = Thresholds.load(trained, LABELS).values
    assert (submission[LABELS].to_numpy() == (probabilities[LABELS].to_numpy() >= thresholds)).all()
    assert "joy" in done.stdout
    assert "%" in done.stdout


def test_average_of_two_runs(trained, tiny, tmp_path):
    second = tmp_path / "second"
    run_classifier.main(training_flags(tiny("roberta"), second, seed=7, num_train_epochs=1))
    common = ["--test_file", str(SAMPLE / "test.csv")]
    frames = {}
    for name, models in {"a": [trained], "b": [second], "both": [trained, second]}.items():
        make_submission.main([
            "--model", *map(str, models), *common, "--output_file", str(tmp_path / f"{name}.csv"),
            "--probabilities_file", str(tmp_path / f"{name}.parquet"),
        ])  # fmt: skip
        frames[name] = pd.read_parquet(tmp_path / f"{name}.parquet")[LABELS].to_numpy()
    assert np.allclose(frames["both"], (frames["a"] + frames["b"]) / 2)
    # Thresholds are those of the averaged validation predictions, not an average of thresholds.

    members = [load_predictions(folder, LABELS) for folder in (trained, second)]
    mean = sum(member[[f"probability/{label}" for label in LABELS]].to_numpy() for member in members) / 2
    truth = members[0][[f"truth/{label}" for label in LABELS]].to_numpy()
    order = np.argsort(members[0]["id"].to_numpy())
    thresholds = ThresholdRule("calibrated").fit(mean[order], truth[order]).values
    submission = pd.read_csv(tmp_path / "both.csv")[LABELS].to_numpy()
    assert (submission == (frames["both"] >= thresholds)).all()


def test_submission_takes_the_sample_files_columns(trained, tmp_path):
    sample = pd.read_csv(SAMPLE / "sample_submission.csv", dtype=str)
    sample[["ID", *reversed(LABELS)]].to_csv(tmp_path / "sample.csv", index=False)
    make_submission.main([
        "--model", str(trained), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / "s.csv"),
        "--sample_submission", str(tmp_path / "sample.csv"),
    ])  # fmt: skip
    submission = pd.read_csv(tmp_path / "s.csv", dtype=str)
    assert list(submission.columns) == ["ID", *reversed(LABELS)]
    assert list(submission["ID"]) == list(sample["ID"])
    assert set(submission[LABELS].to_numpy().ravel()) <= {"0", "1"}


@pytest.mark.parametrize("loss", ["focal", "asl"])
def test_other_losses_fixed_thresholds_and_early_stopping(tiny, tmp_path, loss):
    flags = training_flags(
        tiny("roberta"),
        tmp_path / "run",
        loss=loss,
        threshold_strategy="fixed",
        early_stopping_patience=1,
        metric_for_best_model="f1_macro_tuned",
        num_train_epochs=8,
        max_train_samples=64,
        max_eval_samples=40,
        learning_rate=1e-9,
    )
    run_classifier.main(flags)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["train_samples"] == 64
    assert results["eval_samples"] == 40
    assert "eval_f1_macro_tuned" not in results
    assert results["best_metric_name"] == "f1_macro"  # there is no tuned one where thresholds are fixed
    assert results["epoch"] == 2  # nothing is learnt at this rate, so the first evaluation is the best
    assert set(Thresholds.load(tmp_path / "run", LABELS).values) == {0.5}


def test_validation_split_keeps_near_duplicates_together(tiny, tmp_path, capsys):
    rows = pd.read_csv(SAMPLE / "train.csv", dtype=str)
    twins = rows.assign(ID="twin-" + rows["ID"], Tweet=rows["Tweet"] + " #again @" + rows["ID"].str.replace("-", "_"))
    pd.concat([rows, twins]).to_csv(tmp_path / "train.csv", index=False)
    flags = training_flags(
        tiny("roberta"),
        tmp_path / "run",
        train_file=tmp_path / "train.csv",
        validation_file=None,
        validation_fraction=0.2,
        max_train_samples=32,
    )
    run_classifier.main(flags)
    assert "form 520 groups of near-duplicates" in capsys.readouterr().err
    held_out = set(load_predictions(tmp_path / "run", LABELS)["id"])
    assert 180 <= len(held_out) <= 236
    assert all(f"twin-{name}" in held_out for name in held_out if not name.startswith("twin-"))
    assert len(held_out) == 2 * sum(name.startswith("twin-") for name in held_out)


def test_decoder_without_pad_token_trains(tiny, tmp_path):
    """A decoder pools its last real token: the pad id must be known to the model, and saved with it."""
    flags = training_flags(tiny("qwen2"), tmp_path / "run", num_train_epochs=1, max_train_samples=64)
    run_classifier.main(flags)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pad_token_id"] is not None
    assert config["problem_type"] == "multi_label_classification"
    from utils.data.tables import read_table

    run = load_run(tmp_path / "run")
    table = read_table(SAMPLE / "test.csv")
    assert np.allclose(
        predict_table(run, table, 1).probabilities, predict_table(run, table, 16).probabilities, atol=0.01
    )
