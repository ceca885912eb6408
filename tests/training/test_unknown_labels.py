"""Cells that nobody has annotated (--unknown_labels) count neither in the loss nor in scores, thresholds and counts."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import make_submission
import run_classifier
import run_sft_labels
from conftest import SAMPLE, assert_close, assert_trains_as, training_flags, undivided_flags
from utils.models.encoding import UNKNOWN
from utils.runs.folder import load_task
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule, Thresholds
from utils.training.losses import MultiLabelLoss, positive_weights

LABELS = list(pd.read_csv(SAMPLE / "train.csv", nrows=1).columns[2:])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample data with a third of the cells blank or -1, and some rows without any label known."""
    folder = tmp_path_factory.mktemp("unknown")
    for seed, name in enumerate(("train", "validation")):
        rows = pd.read_csv(SAMPLE / f"{name}.csv", dtype=str)
        rng = np.random.default_rng(seed)
        cells = rows[LABELS].to_numpy(copy=True)
        cells[rng.random(cells.shape) < 0.25] = "-1"
        cells[rng.random(cells.shape) < 0.1] = ""
        cells[5:8] = "-1"
        rows[LABELS] = cells
        rows.to_csv(folder / f"{name}.csv", index=False)
    return folder


def files_of(data):
    return {f"{name}_file": data / f"{name}.csv" for name in ("train", "validation")} | {"unknown_labels": True}


@pytest.fixture(scope="module")
def run(data, tiny, made_once):
    """A classifier trained on it."""
    flags = files_of(data) | {"report": True, "bf16": False}
    return made_once(
        "runs/unknown", lambda folder: run_classifier.main(training_flags(tiny("roberta"), folder, **flags))
    )


def test_scores_are_those_of_the_known_cells(run, data):
    from sklearn.metrics import average_precision_score, f1_score

    results = json.loads((run / "all_results.json").read_text())
    expected = pd.read_csv(data / "validation.csv").set_index("ID")[LABELS].replace(-1, np.nan).dropna(how="all")
    saved = Predictions.load(run, LABELS)
    assert saved.ids == list(expected.index)
    assert np.array_equal(saved.truth, expected.to_numpy(), equal_nan=True)
    assert results["eval_samples"] == len(expected) == 121
    known = ~np.isnan(saved.truth)
    of_labels = [(saved.truth[known[:, i], i], saved.probabilities[known[:, i], i]) for i in range(len(LABELS))]
    f1 = [f1_score(truth, probabilities >= 0.5, zero_division=0.0) for truth, probabilities in of_labels]
    assert results["eval_f1_macro"] == pytest.approx(np.mean(f1))
    assert results["eval_map"] == pytest.approx(np.mean([average_precision_score(*one) for one in of_labels]))
    assert results["eval_f1_macro_low"] <= results["eval_f1_macro"] <= results["eval_f1_macro_high"]
    for i, label in enumerate(LABELS):
        assert results[f"eval_annotated/{label}"] == known[:, i].sum()
        assert results[f"eval_support/{label}"] == np.nansum(saved.truth[:, i])
    thresholds = ThresholdRule("calibrated").fit(saved.probabilities, saved.truth).values
    assert Thresholds.load(run, LABELS).values == pytest.approx(thresholds)


def test_validation_loss_is_the_mean_over_the_known_cells(run):
    """However the rows are divided into batches: the last one is smaller here."""
    saved = Predictions.load(run, LABELS)
    weights = torch.tensor(positive_weights(training_labels(run), "sqrt", 20))
    known = ~np.isnan(saved.truth)
    logits = torch.logit(torch.tensor(saved.probabilities))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor(np.nan_to_num(saved.truth)), pos_weight=weights, reduction="none"
    )
    state = json.loads((run / "trainer_state.json").read_text())
    results = json.loads((run / "all_results.json").read_text())
    [logged] = [
        entry["eval_loss"]
        for entry in state["log_history"]
        if entry.get("eval_map") == pytest.approx(results["eval_map"])
    ]
    assert logged == pytest.approx(losses[torch.tensor(known)].mean().item(), abs=1e-4)


def training_labels(run):
    arguments = json.loads((run / "run_args.json").read_text())
    frame = pd.read_csv(np.atleast_1d(arguments["train_file"])[0])[LABELS].replace(-1, np.nan)
    return frame.dropna(how="all").to_numpy()


def test_counts_are_of_known_cells(run, capsys, data, tiny, tmp_path):
    labels = training_labels(run)
    task = load_task(run)
    assert task.unknown_labels
    assert task.train_rows == len(labels) == 517
    assert task.train_positives == np.nansum(labels, axis=0).tolist()
    assert task.train_annotated == (~np.isnan(labels)).sum(axis=0).tolist()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "annotated" in page.split("<h2>Pictures")[0]
    assert "annotated" in (run / "README.md").read_text(encoding="utf-8")
    flags = training_flags(tiny("roberta"), tmp_path / "run", **files_of(data), preflight_only=True)
    run_classifier.main(flags)
    said = capsys.readouterr().err
    assert "3 of 520 rows left out, as no label of theirs is annotated" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("joy "))
    joy = labels[:, LABELS.index("joy")]
    positives, known = np.nansum(joy), (~np.isnan(joy)).sum()
    assert row == ["joy", f"{positives:.0f}", str(known), f"{((known - positives) / positives) ** 0.5:.2f}"]


def test_without_the_flag_such_cells_are_refused(data, tiny, tmp_path, refused):
    flags = training_flags(tiny("roberta"), tmp_path / "run", train_file=data / "train.csv", validation_file=None)
    message = refused(run_classifier.main, *flags)
    cells = pd.read_csv(data / "train.csv", dtype=str, keep_default_na=False)[LABELS].isin(["-1", ""]).to_numpy()
    row, column = np.argwhere(cells)[0]
    assert f'{data / "train.csv"}, row {row + 2}, column "{LABELS[column]}"' in message
    assert "pass --unknown_labels" in message
    rare = pd.read_csv(SAMPLE / "train.csv", dtype=str)
    rare[LABELS] = np.where(np.random.default_rng(0).random((len(rare), len(LABELS))) < 0.7, "-1", rare[LABELS])
    rare.to_csv(tmp_path / "rare.csv", index=False)
    message = refused(
        run_classifier.main, *training_flags(tiny("roberta"), tmp_path / "r", train_file=tmp_path / "rare.csv")
    )
    assert "--unknown_labels" in message
    assert not (tmp_path / "r").exists()


def test_submission_ensemble_comparison_and_held_labels(run, data, tiny, tmp_path, compare):
    second = tmp_path / "second"
    run_classifier.main(
        training_flags(tiny("roberta"), second, **files_of(data), seed=7, num_train_epochs=1, bf16=False)
    )
    make_submission.main([
        "--model", str(run), str(second), "--test_file", str(SAMPLE / "test.csv"),
        "--output_file", str(tmp_path / "s.csv"),
    ])  # fmt: skip
    members = [Predictions.load(folder, LABELS) for folder in (run, second)]
    order = np.argsort(members[0].ids)
    mean = (members[0].probabilities + members[1].probabilities)[order] / 2
    expected = ThresholdRule("calibrated").fit(mean, members[0].truth[order])
    assert set(pd.read_csv(tmp_path / "s.csv")[LABELS].to_numpy().ravel()) <= {0, 1}
    assert np.isfinite(expected.values).all()

    records, _, _ = compare(run, second)
    assert set(records["row_set"]) == {1}  # the same rows with the same known cells
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (run, second)]
    assert sorted(records["f1_macro"]) == pytest.approx(sorted(one["eval_f1_macro"] for one in results), abs=1e-6)

    truth = pd.read_csv(SAMPLE / "test_labels.csv")
    truth.loc[truth.index % 3 == 0, LABELS] = -1  # as rows of a Kaggle test set that are not scored
    truth.to_csv(tmp_path / "truth.csv", index=False)
    records, said, _ = compare(tmp_path / "s.csv", "--truth", tmp_path / "truth.csv", "--unknown_labels")
    scored = truth[truth.index % 3 > 0]
    scored.to_csv(tmp_path / "scored.csv", index=False)
    alone, _, _ = compare(tmp_path / "s.csv", "--truth", tmp_path / "scored.csv")
    assert records["f1_macro_tuned"].iloc[0] == pytest.approx(alone["f1_macro_tuned"].iloc[0])
    assert f"{len(scored)} held rows" in said


def test_held_labels_that_are_unknown_are_refused_without_the_flag(run, tmp_path, refused):
    import compare_runs

    truth = pd.read_csv(SAMPLE / "test_labels.csv").astype({"joy": object})
    truth.loc[3, "joy"] = -1
    truth.to_csv(tmp_path / "truth.csv", index=False)
    truth.assign(joy=0).to_csv(tmp_path / "s.csv", index=False)
    message = refused(compare_runs.main, tmp_path / "s.csv", "--truth", tmp_path / "truth.csv")
    assert 'truth.csv, row 5, column "joy" is "-1"' in message
    assert "--unknown_labels" in message


def test_a_generator_is_taught_whole_answers(data, tiny, tmp_path, refused, capsys):
    flags = training_flags(tiny("qwen2"), tmp_path / "run", **files_of(data))
    message = refused(run_sft_labels.main, *flags)
    assert "training rows have cells that are not annotated" in message
    assert "run_classifier.py" in message
    more = {"max_train_samples": 32, "max_eval_samples": 24, "num_train_epochs": 1, "max_nodes": 20}
    whole = files_of(data) | {"train_file": SAMPLE / "train.csv"}
    run_sft_labels.main(training_flags(tiny("qwen2"), tmp_path / "run", **whole, **more))
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["eval_annotated/joy"] < 24
    assert np.isfinite(results["eval_f1_macro"])
    assert np.isnan(Predictions.load(tmp_path / "run", LABELS).truth).any()


@pytest.fixture(scope="module")
def undivided_unknown(data, model_without_dropout, made_once):
    files = files_of(data)
    return made_once(
        "runs/undivided-unknown",
        lambda folder: run_classifier.main(undivided_flags(model_without_dropout, folder, 8, **files)),
    )


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"), [(2, 4, 1), pytest.param(2, 2, 2, marks=pytest.mark.processes)]
)
def test_training_does_not_depend_on_how_batches_are_cut(
    undivided_unknown, data, model_without_dropout, tmp_path, micro_batch, accumulation, processes
):
    flags = undivided_flags(model_without_dropout, tmp_path / "run", micro_batch, accumulation, **files_of(data))
    assert_trains_as(undivided_unknown, tmp_path / "run", flags, processes)
    results = [
        json.loads((folder / "eval_results.json").read_text()) for folder in (tmp_path / "run", undivided_unknown)
    ]
    scores = [{name: value for name, value in one.items() if name.startswith("eval_f1_macro")} for one in results]
    assert_close(*scores)


@pytest.mark.parametrize("name", ["bce", "focal", "asl"])
def test_the_loss_is_that_of_the_known_cells(name):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(10, 4, generator=generator, requires_grad=True)
    labels = torch.randint(2, (10, 4), generator=generator).float()
    known = torch.rand(10, 4, generator=generator) < 0.6
    masked = torch.where(known, labels, UNKNOWN)
    loss = MultiLabelLoss(name, torch.full((4,), 2.0), 2.0, 0.0, 4.0, 0.05)

    def of(logits, labels, cells=None):
        return loss(type("Outputs", (), {"logits": logits}), labels, cells)

    each = torch.stack(
        [of(logits[i : i + 1, j : j + 1].expand(1, 4), labels[i, j].expand(1, 4)) for i, j in known.nonzero()]
    )
    parts = [of(logits[rows], masked[rows], known.sum()) for rows in (slice(0, 3), slice(3, 4), slice(4, 10))]
    assert sum(parts).item() == pytest.approx(each.mean().item(), abs=1e-6)
    sum(parts).backward()
    assert (logits.grad[~known] == 0).all()
    assert torch.isfinite(logits.grad).all()
    assert of(logits, masked).item() == pytest.approx(each.mean().item(), abs=1e-6)
