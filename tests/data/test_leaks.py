"""Validation rows with a near-duplicate in training: counted beside the scores, and dropped from training on demand."""

import pandas as pd
import pytest

import run_classifier
from conftest import SAMPLE, training_flags
from finished_runs import load_predictions
from utils.core.files import read_json
from utils.report.page import write_run_report
from utils.runs.folder import load_task

LABELS = list(pd.read_csv(SAMPLE / "sample_submission.csv").columns[1:])


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Training rows of which two are near-duplicates of one validation row, and one of another."""
    folder = tmp_path_factory.mktemp("leaking")
    train = pd.read_csv(SAMPLE / "train.csv", dtype=str).head(64)
    validation = pd.read_csv(SAMPLE / "validation.csv", dtype=str).head(30)
    twins = validation.iloc[[3, 3, 9]].assign(ID=["a", "b", "c"])
    twins["Tweet"] = [text + more for text, more in zip(twins["Tweet"], (" #again", " @you", " https://t.co/x"))]
    pd.concat([twins[:1], train, twins[1:]]).to_csv(folder / "train.csv", index=False)
    validation.to_csv(folder / "validation.csv", index=False)
    return folder


def train(model, folder, output_dir, *switches, **flags):
    files = {f"{name}_file": folder / f"{name}.csv" for name in ("train", "validation")}
    run_classifier.main([*training_flags(model, output_dir, **({"num_train_epochs": 1} | files | flags)), *switches])
    return read_json(output_dir / "all_results.json")


def test_leaks_are_counted_and_dropped(tiny, leaking, tmp_path, capsys, refused):
    counted = train(tiny("roberta"), leaking, tmp_path / "counted")
    shown, card = capsys.readouterr(), (tmp_path / "counted" / "README.md").read_text(encoding="utf-8")
    assert (counted["eval_leaked_rows"], counted["train_samples"]) == (2, 67)
    note = (
        "2 of 30 validation rows have a near-duplicate in training, which makes the scores too good: see --drop_leaks."
    )
    assert note in shown.out
    assert note in card
    # The same intervals in the results, on the terminal, on the card and in the report, which draws again.
    drawn_again = write_run_report(tmp_path / "counted").read_text(encoding="utf-8")
    for kind in ("", "_tuned"):
        score, low, high = (counted[f"eval_f1_macro{kind}{end}"] for end in ("", "_low", "_high"))
        assert low <= score <= high
        assert f"{score:.3f} [{low:.3f}, {high:.3f}]" in shown.out
        assert f"{score:.3f} [{low:.3f}, {high:.3f}]" in card
        assert f"[{low:.3f}, {high:.3f}]" in drawn_again
    dropped = train(tiny("roberta"), leaking, tmp_path / "dropped", "--drop_leaks")
    shown, card = capsys.readouterr(), (tmp_path / "dropped" / "README.md").read_text(encoding="utf-8")
    assert (dropped["eval_leaked_rows"], dropped["train_samples"]) == (0, 64)
    assert "--drop_leaks: 3 of 67 training rows left out, all validation rows kept" in shown.err
    assert "0 of 30 validation rows have a near-duplicate in training." in shown.out
    assert "0 of 30 validation rows have a near-duplicate in training." in card
    # The validation rows are the same in both, and the data before the drop too; the runs are not.
    ids = [list(load_predictions(tmp_path / name, LABELS)["id"]) for name in ("counted", "dropped")]
    assert ids[0] == ids[1] == list(pd.read_csv(leaking / "validation.csv")["ID"])
    assert load_task(tmp_path / "counted").data_sha256 == load_task(tmp_path / "dropped").data_sha256
    assert [read_json(tmp_path / name / "run_args.json")["drop_leaks"] for name in ("counted", "dropped")] == [0, 1]


def test_only_rows_that_are_trained_on_leak(tiny, leaking, tmp_path):
    assert train(tiny("roberta"), leaking, tmp_path / "a", max_train_samples=64)["eval_leaked_rows"] == 1
    assert train(tiny("roberta"), leaking, tmp_path / "b", max_eval_samples=5)["eval_leaked_rows"] == 1
    own = train(tiny("roberta"), leaking, tmp_path / "c", validation_file=None, validation_fraction=0.3)
    assert own["eval_leaked_rows"] == 0


def test_a_run_is_not_resumed_with_other_leaks(tiny, leaking, tmp_path, refused):
    train(tiny("roberta"), leaking, tmp_path / "run", keep_checkpoints=True)
    for name in ("manifest.json", "all_results.json"):
        (tmp_path / "run" / name).unlink()
    files = {f"{name}_file": leaking / f"{name}.csv" for name in ("train", "validation")}
    flags = training_flags(tiny("roberta"), tmp_path / "run", num_train_epochs=1, **files)
    assert "drop_leaks = False, now it is True" in refused(run_classifier.main, *flags, "--drop_leaks")


def test_all_training_rows_leak(tiny, tmp_path, refused):
    files = {f"{name}_file": SAMPLE / "train.csv" for name in ("train", "validation")}
    flags = training_flags(tiny("roberta"), tmp_path / "run", **files)
    assert "--drop_leaks leaves no training rows" in refused(run_classifier.main, *flags, "--drop_leaks")
