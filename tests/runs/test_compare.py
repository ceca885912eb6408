"""compare_runs.py: figures, groups, noise, tables, mistakes of the user."""

import os
import pty
import shutil
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

import compare_runs
from conftest import ROOT, SAMPLE, scikit_learn
from finished_runs import copy_run, guesses
from utils.core.files import read_json
from utils.data.splits import near_duplicate_groups
from utils.runs.comparison import make_boards, validation_entries
from utils.runs.finished import read_run
from utils.runs.folder import MANIFEST_FILE, RESULTS_FILE
from utils.runs.groups import joint_name
from utils.runs.manifest import write_manifest
from utils.scoring.differences import FACTOR, Spread, factor_of, widened
from utils.scoring.evaluation import evaluate
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule


def test_figures_of_one_run(trained, compare):
    records, printed, _ = compare(trained)
    record, results = records.loc["trained"], read_json(trained / RESULTS_FILE)
    run = read_run(trained)
    for name, value in scikit_learn(run.predictions.truth, run.predictions.probabilities >= 0.5).items():
        assert record[name] == pytest.approx(value)
        assert record[name] == pytest.approx(results[f"eval_{name}"])
        assert record[f"{name}_low"] <= record[f"{name}_high"]
        # Cross-fitted anew from the folder alone.
        assert record[f"{name}_tuned"] == pytest.approx(results[f"eval_{name}_tuned"])
    assert record["f1_macro_tuned_low"] < record["f1_macro_tuned"] < record["f1_macro_tuned_high"]
    assert record["train_seconds"] == results["train_runtime"]
    assert record["verdict"] == "best"
    for part in (
        "head, full",
        f"{record['f1_macro_tuned']:.3f} [",
        "124 validation rows, 11 labels",
        "against the best:",
        "±",
    ):
        assert (part in printed) == (part != "against the best:")


def test_noise_and_clear_difference(trained, tmp_path, compare):
    facts = {"trainable_parameters": 35, "total_parameters": 1000, "peak_memory_bytes": 3 * 2**30}
    good = copy_run(trained, tmp_path / "good", guesses(0, 1.2), results=facts, learning_rate=1.0)
    same = copy_run(trained, tmp_path / "same", guesses(0, 1.2), learning_rate=2.0, use_peft=True)
    near = copy_run(trained, tmp_path / "near", guesses(1, 1.1), learning_rate=3.0)
    bad = copy_run(trained, tmp_path / "bad", guesses(2, 0.3), learning_rate=4.0, use_peft=True, load_in_4bit=True)
    records, printed, said = compare(bad, same, near, good)
    assert said == ""
    assert records.index[-1] == "bad"
    assert records["f1_macro_tuned"].is_monotonic_decreasing
    assert records["verdict"].to_dict() == {
        "same": "best",
        "good": "not distinguishable",
        "near": "not distinguishable",
        "bad": "worse",
    }
    twin = records.loc["good"]
    assert (twin["difference"], twin["difference_low"], twin["difference_high"], twin["p_value"]) == (0, 0, 0, 1)
    assert records.loc["bad", "difference_high"] < 0
    assert records.loc["bad", "p_value"] < 0.02
    assert records.loc["bad", "difference"] == pytest.approx(
        records.loc["bad", "f1_macro_tuned"] - records.loc["same", "f1_macro_tuned"]
    )
    assert records["approach"].to_dict() == {
        "good": "head, full",
        "same": "head, LoRA",
        "near": "head, full",
        "bad": "head, QLoRA",
    }
    for part in ("3.5 %", "3.0 GiB", "not distinguishable", "worse", "against same, paired bootstrap"):
        assert part in printed


def test_seeded(trained, compare):
    first, _, _ = compare(trained)
    second, _, _ = compare(trained)
    other, _, _ = compare(trained, "--seed", 1)
    pd.testing.assert_frame_equal(first, second)
    assert other["f1_macro_tuned_low"].iloc[0] != first["f1_macro_tuned_low"].iloc[0]
    assert other["f1_macro_tuned"].iloc[0] == first["f1_macro_tuned"].iloc[0]


def test_seeds_become_mean_and_spread(trained, tmp_path, compare):
    folders = [
        copy_run(trained, tmp_path / f"seed{seed}", guesses(seed, 1), results={"train_runtime": 60.0 * seed}, seed=seed)
        for seed in (1, 2, 3)
    ]
    records, printed, _ = compare(*folders)
    record = records.loc["seed{1,2,3}"]
    alone = [compare(folder)[0].iloc[0] for folder in folders]
    for name in ("f1_macro", "f1_macro_tuned", "f1_micro", "jaccard_tuned"):
        values = [one[name] for one in alone]
        assert record[name] == pytest.approx(np.mean(values))
        assert record[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1))
    assert record["f1_macro_low"] < record["f1_macro"] < record["f1_macro_high"]
    assert record["train_seconds"] == 120
    assert record["runs"] == "3 seeds"
    assert f"{record['f1_macro']:.3f} ± {record['f1_macro_sd']:.3f} (3 seeds) [" in printed


def test_what_the_seeds_add_and_what_the_text_says_of_it(trained, tmp_path, compare):
    def copies(name, seeds, skill, **arguments):
        return [
            copy_run(
                trained, tmp_path / f"{name}{seed}", guesses(int(100 * skill) + seed, skill), seed=seed, **arguments
            )
            for seed in seeds
        ]

    one, two = copies("a", [1], 1.0, learning_rate=1.0), copies("b", [1], 1.1, learning_rate=2.0)
    three = copies("c", [1, 2, 3], 1.05, learning_rate=3.0)
    alone, printed, _ = compare(*one, *two)
    printed = " ".join(printed.split())
    assert "the luck of the training seed is not in it, as no run has several seeds" in printed
    assert "is in none of it and not known" in printed
    assert "by being the best of 2, if they are equally good" in printed
    assert "to find one of 0.01 as often takes at least" in printed
    assert np.isnan(alone["f1_macro_tuned_seed_sd"]).all()
    # A single seed has the spread of the group with several, in its interval and in its difference.
    records, printed, _ = compare(*one, *two, *three, "--power", 0.5)
    printed = " ".join(printed.split())
    assert "and over the seeds, for a single seed with the spread of the others" in printed
    assert "Means are over 1 to 3 seeds" in printed
    assert "so one of 0.5 is seen." in printed
    sd = records.loc["c{1,2,3}", "f1_macro_tuned_sd"]
    assert records["f1_macro_tuned_seed_sd"].tolist() == pytest.approx([sd] * 3)
    assert (records.loc["c{1,2,3}", "sd_over"], records.loc["c{1,2,3}", "seeds"]) == ("3 seeds", 3)
    half = records["f1_macro_tuned_high"] - records["f1_macro_tuned"]
    was = alone["f1_macro_tuned_high"] - alone["f1_macro_tuned"]
    assert half["a1"] == pytest.approx(widened(was["a1"], Spread(sd, 2), 1))
    assert half["a1"] > np.hypot(was["a1"], 1.96 * sd)  # as the spread is an estimate


def test_thresholds_chosen_on_other_rows_do_not_widen_a_difference(trained, tmp_path):
    """Thresholds cross-fitted on the rows are luck too; those of held labels and 0.5 are not."""
    folders = [copy_run(trained, tmp_path / f"{seed}", guesses(seed, 1), learning_rate=float(seed)) for seed in (1, 2)]
    entries, _ = validation_entries([read_run(folder) for folder in folders])
    tuned = make_boards(entries, 300, 0)[0].entries[1].difference.standard_error
    for entry in entries:
        entry.chosen_by = None
    factor = factor_of(ThresholdRule("calibrated"))
    assert factor > FACTOR
    assert tuned == pytest.approx(
        factor / FACTOR * make_boards(entries, 300, 0)[0].entries[1].difference.standard_error
    )


def test_folds_are_scored_together(trained, tmp_path, compare):
    run = read_run(trained)
    groups = near_duplicate_groups(run.predictions.texts)
    folders = [
        copy_run(
            trained,
            tmp_path / f"fold_{fold}",
            guesses(0, 1),
            rows=np.flatnonzero(groups % 3 == fold),
            results={"train_runtime": 10.0, "peak_memory_bytes": 2**30 + fold},
            num_folds=3,
            fold=fold,
        )
        for fold in range(3)
    ]
    records, _, said = compare(*folders)
    assert said == ""
    record = records.loc["fold_{0,1,2}"]
    rows = run.predictions.select(np.argsort(run.predictions.ids))
    wanted = evaluate(replace(rows, probabilities=guesses(0, 1)(rows.truth)), run.thresholds.rule).metrics
    for name in ("f1_macro", "f1_macro_tuned", "f1_micro_tuned", "jaccard_tuned"):
        assert record[name] == pytest.approx(wanted[name])
    assert (record["rows"], record["runs"], record["train_seconds"]) == (len(rows), "3 folds", 30)
    assert record["peak_memory_bytes"] == 2**30 + 2
    of_folds = [read_run(folder) for folder in folders]
    halves = [
        f1_score(fold.predictions.truth, fold.decisions[""][0], average="macro", zero_division=0.0) for fold in of_folds
    ]
    assert record["f1_macro_sd"] == pytest.approx(np.std(halves, ddof=1))
    assert record["sd_over"] == "3 folds"
    # The order of the folders does not matter, and folds that are missing are told.
    backwards = compare(*folders[::-1])[0].iloc[0]
    assert backwards["f1_macro_tuned"] == record["f1_macro_tuned"]
    assert compare(*folders[:2])[0].iloc[0]["runs"] == "2 of 3 folds"
    # The same rows held out twice are not two folds.
    _, _, said = compare(trained, folders[0], copy_run(folders[0], tmp_path / "again", num_folds=3, fold=1))
    assert "folds of one run that hold out the same rows: skipped" in said


def test_other_data_are_another_run_and_other_paths_are_not(trained, tmp_path, compare):
    again = copy_run(trained, tmp_path / "again", data_sha256="other rows in the same file")
    moved = copy_run(trained, tmp_path / "moved", seed=7, train_file="elsewhere/train.csv")
    records, _, said = compare(trained, again, moved)
    assert said == ""
    assert set(records["runs"]) == {"1", "2 seeds"}
    assert "again" in records.index


def test_names_of_many_runs_are_short():
    names = [f"seed{seed}/fold_{fold}" for seed in (1, 2, 3) for fold in range(5)]
    assert joint_name(names) == "seed1/fold_0 to seed3/fold_4 (15 runs)"
    assert joint_name(names[:5]) == "seed1/fold_{0,1,2,3,4}"


def test_other_rows_are_not_compared(trained, tmp_path, compare):
    half = copy_run(trained, tmp_path / "half", rows=range(60), learning_rate=7.0)
    records, printed, said = compare(trained, half)
    assert records["verdict"].tolist() == ["best", "best"]
    assert sorted(records["rows"]) == [60, 124]
    assert records["row_set"].tolist() == [1, 2]
    assert "2 different sets of rows: one table for each, and no comparison between them" in said
    assert "60 validation rows" in printed
    assert "paired bootstrap" not in printed


def test_seeds_that_hold_out_other_rows_have_no_mean(trained, tmp_path, compare):
    split = {"validation_file": None}
    one = copy_run(trained, tmp_path / "a1", rows=range(60), seed=1, **split)
    two = copy_run(trained, tmp_path / "a2", rows=range(60, 124), seed=2, **split)
    three = copy_run(trained, tmp_path / "a3", rows=range(60), seed=3, **split)
    records, _, said = compare(one, two, three)
    assert set(records.index) == {"a{1,3}", "a2"}
    assert "a{1,2,3} differ in the seed alone, but held out different rows" in said


def test_what_is_no_run_is_skipped_with_a_line(trained, tmp_path, compare, refused):
    unfinished = copy_run(trained, tmp_path / "unfinished")
    (unfinished / MANIFEST_FILE).unlink()
    bare = copy_run(trained, tmp_path / "bare")
    shutil.rmtree(bare / "predictions")
    damaged = {}
    for name in ("task.json", "run_args.json", "all_results.json", "thresholds.json", "predictions/validation.parquet"):
        damaged[name] = copy_run(trained, tmp_path / f"half {Path(name).stem}")
        content = (damaged[name] / name).read_bytes()
        (damaged[name] / name).write_bytes(content[: len(content) // 2])
    no_thresholds = copy_run(trained, tmp_path / "no thresholds")
    (no_thresholds / "thresholds.json").unlink()
    twin = copy_run(trained, tmp_path / "twin")
    above = tmp_path / "above"
    copy_run(trained, above / "below")
    records, _, said = compare(trained, unfinished, bare, twin, above, SAMPLE / "test_labels.csv", trained)
    assert records.index.tolist() == ["trained"]
    lines = said.splitlines()
    assert len(lines) == 5
    assert "unfinished is not finished" in lines[0]
    assert "has lost its predictions/validation.parquet" in lines[1]
    assert f"it holds 1 runs: name {above}/*" in lines[2]
    assert "test_labels.csv is not the folder of a run" in lines[3]
    assert "twin has the same arguments, seed and fold" in lines[4]
    assert "no finished run among" in refused(compare_runs.main, unfinished, above)
    _, _, said = compare(trained, *damaged.values(), no_thresholds)
    lines = said.splitlines()
    assert len(lines) == 6
    assert all("is not what it was when the run was finished" in line for line in lines[:5])
    assert f"{no_thresholds} has lost its thresholds.json:" in lines[5]
    _, _, said = compare(trained, *damaged.values(), no_thresholds, "--skip_checks")
    *lines, last = said.splitlines()
    for (name, folder), line in zip(damaged.items(), lines, strict=True):
        assert f"{folder} has a damaged {name}:" in line
    assert f"{no_thresholds} has lost its thresholds.json:" in last


def test_decoded_labels_and_fixed_thresholds(trained, tmp_path, compare):
    run = read_run(trained)
    folder = copy_run(trained, tmp_path / "generator", script="run_sft_labels.py", use_peft=True, num_train_epochs=9.0)
    frame = pd.read_parquet(folder / "predictions" / "validation.parquet")
    decoded = (guesses(5, 1)(run.predictions.truth) > 0.5).astype(np.int8)
    frame[[f"decoded/{label}" for label in run.task.labels]] = decoded
    frame.to_parquet(folder / "predictions" / "validation.parquet", index=False)
    write_manifest(folder)
    fixed = copy_run(trained, tmp_path / "fixed", learning_rate=9.0)
    text = (fixed / "thresholds.json").read_text().replace("calibrated", "fixed")
    (fixed / "thresholds.json").write_text(text)
    write_manifest(fixed)
    records, printed, _ = compare(folder, fixed)
    assert records.loc["generator", "f1_macro_decoded"] == pytest.approx(
        f1_score(run.predictions.truth, decoded, average="macro", zero_division=0.0)
    )
    assert records.loc["generator", "approach"] == "label generation, LoRA"
    assert records.loc["fixed", "ranked_by"] == "f1_macro"
    assert np.isnan(records.loc["fixed", "f1_macro_tuned"])
    assert "macro-F1 decoded" in printed


def test_without_texts_each_row_is_its_own_group():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (60, 3))
    rows = Predictions(list("abc"), list(map(str, range(60))), truth=truth, probabilities=rng.random(truth.shape))
    rule = ThresholdRule("per_label", 20)
    wanted = rule.cross_fit(rows.probabilities, truth, np.arange(60))
    assert np.array_equal(rows.decide(rule)["_tuned"], wanted)


def test_markdown(trained, tmp_path, compare, refused):
    target = tmp_path / "table.md"
    unfinished = tmp_path / "nothing"
    unfinished.mkdir()
    near = copy_run(trained, tmp_path / "a|b", guesses(0, 1), learning_rate=9.0)
    compare(trained, near, unfinished, "--markdown", target)
    text = target.read_text(encoding="utf-8")
    assert "| a\\|b " in text
    assert "paired bootstrap" in text
    assert "- skipped: " in text
    assert "exists: choose another name" in refused(compare_runs.main, trained, "--markdown", target)
    assert target.read_text(encoding="utf-8") == text


def test_table_fits_the_terminal(trained, tmp_path):
    other = copy_run(trained, tmp_path / "other", guesses(0, 0.3), learning_rate=1.0)
    command = [sys.executable, "compare_runs.py", str(trained), str(other)]
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert plain.count("\nrun ") == 1  # one table of scores, then that of differences
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 80))
    with subprocess.Popen(command, cwd=ROOT, stdout=there, stderr=subprocess.DEVNULL):
        os.close(there)
        shown = b""
        with suppress(OSError):  # raised at the end of what a terminal was shown
            while part := os.read(here, 10_000):
                shown += part
    lines = shown.decode().replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80
    headers = " ".join(line for line in lines if line.startswith("run "))
    header = plain.splitlines()[0]
    assert all(name in headers for name in header.split())
    for line in plain.splitlines()[2:4]:  # what stands in the rows stands in their parts
        name, *cells = line.split()
        parts = " ".join(part for part in lines if part.startswith(f"{name} "))
        assert all(cell in parts for cell in cells)


def test_mistakes_on_the_command_line(trained, tmp_path, refused):
    def error(*arguments):
        return refused(compare_runs.main, *arguments)

    assert "name the run folders" in error()
    assert "name the run folders" in error("--csv", "a.csv")
    assert "no such folder" in error(tmp_path / "nix")
    assert "--power 2" in error(trained, "--power", 2)
    assert "--resamples 5" in error(trained, "--resamples", 5)
    assert "did you mean --markdown" in error(trained, "--markdwn", "x")
    assert "--test_file is for --truth" in error(trained, "--test_file", SAMPLE / "test.csv")
    assert "is named twice, or an input" in error(trained, "--csv", tmp_path / "a", "--html", tmp_path / "a")
    assert "is a folder" in error(trained, "--html", tmp_path)
    assert not list(tmp_path.glob("a*"))
