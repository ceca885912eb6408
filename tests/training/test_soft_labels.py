"""Shares as labels (--soft_labels), weights of rows (--weight_column)."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import run_classifier
import run_sft_labels
from conftest import SAMPLE, assert_trains_as, training_flags, undivided_flags
from utils.core.arguments import DataArguments
from utils.data.training_data import read_training_data
from utils.runs.folder import load_task
from utils.scoring.predictions import Predictions
from utils.training.losses import MultiLabelLoss, class_weights, positive_weights

LABELS = list(pd.read_csv(SAMPLE / "train.csv", nrows=1).columns[2:])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample data with shares in place of 0 and 1, and a weight for each row."""
    folder = tmp_path_factory.mktemp("soft")
    for seed, name in enumerate(("train", "validation")):
        rows = pd.read_csv(SAMPLE / f"{name}.csv")
        rng = np.random.default_rng(seed)
        cells = rows[LABELS].to_numpy()
        rows[LABELS] = np.round(
            np.where(cells == 1, 0.4 + 0.6 * rng.random(cells.shape), 0.6 * rng.random(cells.shape)), 2
        )
        rows["trust_in_row"] = np.round(3 * rng.random(len(rows)), 2)
        rows.to_csv(folder / f"{name}.csv", index=False)
    return folder


def files_of(data, **more):
    files = {f"{name}_file": data / f"{name}.csv" for name in ("train", "validation")}
    return files | {"soft_labels": True, "weight_column": "trust_in_row"} | more


@pytest.fixture(scope="module")
def run(data, model_without_dropout, made_once):
    files = files_of(data)
    return made_once(
        "runs/soft", lambda folder: run_classifier.main(undivided_flags(model_without_dropout, folder, 8, **files))
    )


def test_scores_are_against_shares_of_a_half_or_more(run, data):
    from sklearn.metrics import f1_score

    shares = pd.read_csv(data / "validation.csv")[LABELS].to_numpy()
    saved = Predictions.load(run, LABELS)
    assert (saved.truth == (shares >= 0.5)).all()
    results = json.loads((run / "all_results.json").read_text())
    expected = f1_score(shares >= 0.5, saved.probabilities >= 0.5, average="macro", zero_division=0.0)
    assert results["eval_f1_macro"] == pytest.approx(expected)
    task = load_task(run)
    assert (task.soft_labels, task.weight_column) == (True, "trust_in_row")
    train = pd.read_csv(data / "train.csv")[LABELS].head(64)
    assert task.train_positives == (train >= 0.5).sum().tolist()
    assert "shares" in (run / "README.md").read_text(encoding="utf-8")


def test_the_validation_loss_is_that_of_the_shares(run, data):
    """Not weighted; with pos_weight from weighted shares of the training rows."""
    train, shares = (pd.read_csv(data / f"{name}.csv") for name in ("train", "validation"))
    train = train.head(64)
    weights = positive_weights(train[LABELS].to_numpy(), "sqrt", 20, train["trust_in_row"].to_numpy())
    mass = (train[LABELS].T * train["trust_in_row"]).T.sum()
    assert weights == pytest.approx(np.sqrt((train["trust_in_row"].sum() - mass) / mass).to_numpy(), rel=1e-5)
    saved = Predictions.load(run, LABELS)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.logit(torch.tensor(saved.probabilities)),
        torch.tensor(shares[LABELS].to_numpy()),
        pos_weight=torch.tensor(weights),
    )
    state = json.loads((run / "trainer_state.json").read_text())
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert min(abs(loss - expected.item()) for loss in losses) < 1e-4


def test_training_does_not_depend_on_how_batches_are_cut(run, data, model_without_dropout, tmp_path):
    assert_trains_as(
        run, tmp_path / "run", undivided_flags(model_without_dropout, tmp_path / "run", 2, 4, **files_of(data))
    )


@pytest.mark.processes
def test_nor_on_the_number_of_processes(run, data, model_without_dropout, tmp_path):
    flags = undivided_flags(model_without_dropout, tmp_path / "run", 2, 2, **files_of(data))
    assert_trains_as(run, tmp_path / "run", flags, processes=2)


def test_a_weight_of_two_is_a_row_twice():
    """As is a weight of 0 a row that is left out; however the global batch of six rows is cut."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator), torch.rand(6, 3, generator=generator)
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 2.0, 0.0])  # mean 1
    loss = MultiLabelLoss("bce", torch.ones(3), 0, 0, 0, 0)

    def of(rows, cells=None, weights=None):
        return loss(type("Outputs", (), {"logits": logits[rows]}), labels[rows], cells, weights)

    repeated = of([0, 0, 2, 3, 4, 4])
    parts = [of(rows, 18, weights[rows]) for rows in ([0, 1], [2, 3, 4], [5])]
    assert sum(parts).item() == pytest.approx(repeated.item(), abs=1e-6)


def test_a_generator_weighs_its_rows(tiny, tmp_path):
    """Where each row stands twice, weights of 2 and 0 are the same as none."""
    rows = pd.read_csv(SAMPLE / "train.csv", dtype=str).head(24)
    rows = pd.concat([rows, rows.assign(ID="again-" + rows["ID"])]).sort_values("Tweet", kind="stable")
    rows["weight"] = [2, 0] * 24
    rows.to_csv(tmp_path / "train.csv", index=False)
    curves = []
    for name, more in (("weighted", {"weight_column": "weight"}), ("plain", {"label_columns": None})):
        flags = training_flags(
            tiny("qwen2"), tmp_path / name, train_file=tmp_path / "train.csv", max_eval_samples=12, num_train_epochs=1,
            max_nodes=12, logging_steps=1, bf16=False, per_device_train_batch_size=16,
            train_sampling_strategy="sequential", **more,
        )  # fmt: skip
        run_sft_labels.main(flags if more.get("weight_column") else [*flags, "--label_columns", *LABELS])
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        curves.append([[one["loss"], one["grad_norm"]] for one in state["log_history"] if "grad_norm" in one])
    assert len(curves[0]) == 3
    assert np.array(curves[0]) == pytest.approx(np.array(curves[1]), rel=1e-3)


def test_one_label_per_text_with_shares(data, tiny, tmp_path, refused, capsys):
    """Shares that sum to 1 are softmax targets, if asked for."""
    names = LABELS[:3]
    for name in ("train", "validation"):
        rows = pd.read_csv(data / f"{name}.csv")
        rows[names] = np.round(rows[names].div(rows[names].sum(axis=1), axis=0), 3)
        rows[["ID", "Tweet", *names]].to_csv(tmp_path / f"{name}.csv", index=False)
    files = files_of(tmp_path, weight_column=None, num_train_epochs=1, bf16=False)
    run_classifier.main(training_flags(tiny("roberta"), tmp_path / "run", **files, task="single_label"))
    shares = pd.read_csv(tmp_path / "validation.csv")[names].to_numpy()
    saved = Predictions.load(tmp_path / "run", names)
    assert (saved.truth.argmax(axis=1) == shares.argmax(axis=1)).all()
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    right = saved.probabilities.argmax(axis=1) == shares.argmax(axis=1)
    assert results["eval_accuracy"] == pytest.approx(right.mean())
    assert "one label per text, as --task says" in capsys.readouterr().err
    run_classifier.main(training_flags(tiny("roberta"), tmp_path / "auto", **files, preflight_only=True))
    assert "one label per text" not in capsys.readouterr().err
    flags = training_flags(tiny("roberta"), tmp_path / "other", **files_of(data), task="single_label")
    assert "has shares that sum to" in refused(run_classifier.main, *flags)


def test_class_weights_of_shares_have_the_mean_1():
    rng = np.random.default_rng(0)
    shares, rows = rng.dirichlet(np.ones(4), size=30), rng.random(30)
    weights = class_weights(shares, "balanced", 20, rows)
    assert np.average(shares @ weights, weights=rows) == pytest.approx(1)
    logits = torch.tensor(rng.normal(size=(30, 4)), dtype=torch.float32)
    loss = MultiLabelLoss("cross_entropy", torch.ones(4), 0, 0, 0, 0)
    found = loss(type("Outputs", (), {"logits": logits}), torch.tensor(shares, dtype=torch.float32))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(shares, dtype=torch.float32))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_what_does_not_go_is_refused(data, tiny, tmp_path, refused):
    def train(main=run_classifier.main, model="roberta", **more):
        return refused(main, *training_flags(tiny(model), tmp_path / "run", **files_of(data) | more))

    assert "focal is for yes and no" in train(loss="focal")
    assert "cannot be written" in train(run_sft_labels.main, "qwen2")
    assert "--soft_labels" in train(soft_labels=None)
    assert 'no column "nowhere"' in train(weight_column="nowhere")
    assert "ids, texts or labels" in train(weight_column="Tweet")
    rows = pd.read_csv(data / "train.csv", dtype=str)
    for column, cell, words in (
        ("joy", "1.2", ['row 7, column "joy" is "1.2"', "a share from 0 to 1"]),
        ("trust_in_row", "-1", ['row 7, column "trust_in_row" is "-1"', "0 or more"]),
        ("trust_in_row", "", ['column "trust_in_row" is ""']),
    ):
        wrong = rows.copy()
        wrong.loc[5, column] = cell
        wrong.to_csv(tmp_path / "wrong.csv", index=False)
        message = train(train_file=tmp_path / "wrong.csv")
        assert all(word in message for word in words), message
    rows.assign(trust_in_row="0").to_csv(tmp_path / "wrong.csv", index=False)
    assert "have the weight 0" in train(train_file=tmp_path / "wrong.csv")
    hard = pd.read_csv(SAMPLE / "train.csv", dtype=str)
    hard.loc[2, "joy"] = "0.7"
    hard.to_csv(tmp_path / "hard.csv", index=False)
    message = train(train_file=tmp_path / "hard.csv", soft_labels=None, weight_column=None)
    assert 'hard.csv, row 4, column "joy" is "0.7"' in message
    assert "pass --soft_labels" in message


def test_folds_of_files_of_which_one_has_weights(data, tmp_path):
    """Validation rows may lack the column; dealt out to folds with the others they count 1."""
    validation = pd.read_csv(data / "validation.csv").drop(columns="trust_in_row")
    validation.to_csv(tmp_path / "validation.csv", index=False)
    arguments = DataArguments(
        train_file=str(data / "train.csv"), validation_file=str(tmp_path / "validation.csv"), soft_labels=True,
        weight_column="trust_in_row", num_folds=5, fold=0,
    )  # fmt: skip
    train, held_out, _ = read_training_data(arguments, seed=0)
    weights = pd.read_csv(data / "train.csv").set_index("ID")["trust_in_row"]
    expected = [weights.get(name, 1.0) for name in train.ids]
    assert train.weights == pytest.approx(expected)
    assert len(train) + len(held_out) == len(weights) + len(validation)
