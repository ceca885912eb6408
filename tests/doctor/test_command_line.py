"""The doctor through the scripts: on the terminal, on the card, in the folder, and of rows that are predicted."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import make_submission
import predict
import run_classifier
import run_sft_labels
from conftest import SAMPLE, training_flags
from utils.core.files import read_json, write_json
from utils.doctor.drift import Reference
from utils.doctor.finding import DOCTOR_FILE, Diagnosis
from utils.report import __main__ as report
from utils.runs.folder import load_task
from utils.runs.manifest import check_files, renew_entries


@pytest.fixture(scope="module")
def leaky(tiny, tmp_path_factory):
    """`(folder, what it printed)` of a run whose training file holds half of the validation rows, and most texts of
    which are cut."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("leaky")
    train, validation = (pd.read_csv(SAMPLE / f"{name}.csv") for name in ("train", "validation"))
    copies = validation.iloc[::2].assign(ID=lambda rows: "copy-" + rows["ID"])
    pd.concat([train, copies]).to_csv(folder / "train.csv", index=False)
    flags = {
        "train_file": folder / "train.csv",
        "baseline": True,
        "report": True,
        "max_length": 16,
        "merge_adapter": None,
    }
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        run_classifier.main(training_flags(tiny("roberta"), folder / "run", **flags))
    return folder / "run", output.getvalue()


def test_findings_are_in_the_folder_on_the_terminal_and_on_the_card(leaky):
    folder, printed = leaky
    diagnosis = Diagnosis.load(folder)
    found = {finding.kind: finding for finding in diagnosis.findings}
    assert {"leaks", "texts_cut"} <= set(found)
    assert "below_baseline" not in found  # which follows from the texts that are cut
    because = diagnosis.consequences(found["texts_cut"])
    assert "TF-IDF, logistic regression scores" in because
    assert "62 of 124 validation rows have a near-duplicate in training (50 %)" in found["leaks"].what
    assert diagnosis.headline in printed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## What the doctor says" in card
    assert diagnosis.headline in card
    page = (folder / "report.html").read_text(encoding="utf-8")
    for finding in diagnosis.findings:
        assert f"{finding.severity.upper()}: {finding.what}" in printed
        assert f"What to do: {finding.remedy}" in printed
    assert found["leaks"].what in card
    assert found["leaks"].what in page
    for place in (printed, card, page):
        assert "TF-IDF, logistic regression" in place
        assert because in place
    assert [finding.severity for finding in diagnosis.findings] == sorted(one.severity for one in diagnosis.findings)
    check_files(folder)


def test_the_report_is_the_same_when_it_is_made_again(leaky):
    folder, _ = leaky
    before = (folder / "report.html").read_bytes()
    report.main([str(folder)])
    assert (folder / "report.html").read_bytes() == before


def test_the_file_quotes_no_text(leaky):
    content = (leaky[0] / DOCTOR_FILE).read_text(encoding="utf-8")
    texts = [text for name in ("train", "validation") for text in pd.read_csv(SAMPLE / f"{name}.csv")["Tweet"]]
    assert not any(text in content for text in texts)


def test_without_the_linear_model_the_frequent_labels_remain(trained):
    rows = Diagnosis.load(trained).baselines
    assert [row["name"] for row in rows] == ["this model", "the frequent labels, always"]
    results, own = read_json(trained / "all_results.json"), rows[0]["f1_macro"]
    for end in ("low", "high"):  # the interval that stands everywhere
        assert own[f"value_{end}"] == pytest.approx(results[f"eval_f1_macro_tuned_{end}"])


def test_the_reference_is_what_the_run_has_seen(trained):
    task = load_task(trained)
    reference = Reference.load(trained, task.labels)
    assert (reference.rows, set(reference.train_annotated.tolist())) == (124, {520})
    assert reference.train_positives.tolist() == task.train_positives
    thresholds = read_json(trained / "thresholds.json")["thresholds"]
    frame = pd.read_parquet(trained / "predictions" / "validation.parquet")
    given = [int((frame[f"probability/{label}"] >= thresholds[label]).sum()) for label in task.labels]
    assert reference.given.tolist() == given
    backwards = Reference.load(trained, task.labels[::-1])
    assert backwards.given.tolist() == given[::-1]
    assert reference.texts.rows == 520
    assert reference.texts.scripts == {"LATIN": 520}


@pytest.mark.parametrize("damage", [lambda c: c["reference"].pop("given"), lambda c: c["checks"][0].pop("seen")])
def test_a_damaged_file_is_refused(trained, tmp_path, refused, damage):
    folder = shutil.copytree(trained, tmp_path / "run")
    content = read_json(folder / DOCTOR_FILE)
    damage(content)
    write_json(folder / DOCTOR_FILE, content)
    target, test = tmp_path / "s.csv", SAMPLE / "test.csv"
    arguments = ("--model", folder, "--test_file", test, "--output_file", target)
    assert "doctor.json is not what it was" in refused(make_submission.main, *arguments)
    renew_entries(folder, [DOCTOR_FILE])
    if "given" not in content["reference"]:
        assert "a damaged doctor.json" in refused(make_submission.main, *arguments)
        assert not target.exists()
    else:
        assert "a damaged doctor.json" in refused(report.main, folder)


def submission(folder, test_file, tmp_path, capsys):
    """What make_submission.py says of a file."""
    capsys.readouterr()
    words = ["--model", folder, "--test_file", test_file, "--output_file", tmp_path / "submission.csv", "--overwrite"]
    make_submission.main([str(word) for word in words])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def steady(trained, tmp_path_factory):
    """The run that all share, with thresholds that give each label to a third of the rows."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("steady") / "run")
    task = load_task(folder)
    frame = pd.read_parquet(folder / "predictions" / "validation.parquet")
    content = read_json(folder / "thresholds.json")
    for label in task.labels:
        content["thresholds"][label] = float(np.quantile(frame[f"probability/{label}"], 0.67))
    write_json(folder / "thresholds.json", content)
    doctor = read_json(folder / DOCTOR_FILE)
    given = [int((frame[f"probability/{x}"] >= content["thresholds"][x]).sum()) for x in task.labels]
    doctor["reference"]["given"] = given
    write_json(folder / DOCTOR_FILE, doctor)
    renew_entries(folder, ["thresholds.json", DOCTOR_FILE])
    return folder


def test_rows_to_predict_are_compared(steady, tmp_path, capsys):
    said = submission(steady, SAMPLE / "test.csv", tmp_path, capsys)
    assert "The doctor looked at these 136 rows: " in said
    for kind in ("script", "language", "tokens that the model"):
        assert kind not in said
    rows = pd.read_csv(SAMPLE / "test.csv")
    table = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопкрстуввхуз")
    rows["Tweet"] = rows["Tweet"].str.lower().str.translate(table)
    rows.to_csv(tmp_path / "other.csv", index=False)
    said = submission(steady, tmp_path / "other.csv", tmp_path, capsys)
    assert "100 % of the texts here are in Cyrillic script, in training 0 %" in said


def test_problems_of_a_run_are_told_before_it_predicts(leaky, tmp_path, capsys):
    folder, _ = leaky
    problems = [finding.what for finding in Diagnosis.load(folder).findings if finding.severity == "problem"]
    assert problems
    warning = f"{folder}: the doctor found {len(problems)} problem"
    words = ["--model", folder, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "submission.csv"]
    make_submission.main([str(word) for word in words])
    predict.main(["--model", str(folder), "a text"])
    said = capsys.readouterr().err
    assert said.count(warning) == 2
    assert said.count(problems[0]) == 2


def test_a_run_of_before_there_was_a_doctor(steady, tmp_path, capsys):
    folder = shutil.copytree(steady, tmp_path / "old")
    (folder / DOCTOR_FILE).unlink()
    manifest = read_json(folder / "manifest.json")
    del manifest["files"][DOCTOR_FILE]
    write_json(folder / "manifest.json", manifest)
    said = submission(folder, SAMPLE / "test.csv", tmp_path, capsys)
    assert "The rows were not compared with those of the training" in said


def test_several_runs_are_compared_by_their_mean(trained, steady, tmp_path, capsys):
    said_of = []
    for models in ([trained, steady],):
        words = ["--model", *models, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "mean.csv"]
        make_submission.main([str(word) for word in words])
        said_of.append(capsys.readouterr().out)
    assert "The doctor looked at these 136 rows: " in said_of[0]


def test_many_lines_are_compared_and_few_are_not(steady, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("привет как дела сегодня\n" * 60, encoding="utf-8")
    predict.main(["--model", str(steady), "--file", str(lines), "--json"])
    said = capsys.readouterr()
    assert "The doctor looked at these 60 rows: " in said.err
    assert "in Cyrillic script" in said.err
    assert all("text" in json.loads(line) for line in said.out.splitlines())
    predict.main(["--model", str(steady), "привет как дела сегодня"])
    assert "The doctor looked at" not in capsys.readouterr().err


def test_the_preflight_says_which_signs_are_unknown(tiny, tmp_path, capsys):
    flags = training_flags(tiny("roberta"), tmp_path / "run", preflight_only=True)
    run_classifier.main(flags)
    assert "unknown tokens     in 0 of 520 texts" in capsys.readouterr().err


def test_a_model_that_is_used_as_it_is_is_looked_at_too(tiny, tmp_path, capsys):
    words = ["--model_name_or_path", tiny("qwen3"), "--eval_only", "--validation_file", SAMPLE / "validation.csv"]
    words += ["--output_dir", tmp_path / "run", "--max_eval_samples", 30, "--report", False, "--disable_tqdm", True]
    run_sft_labels.main([str(word) for word in words])
    diagnosis = Diagnosis.load(tmp_path / "run")
    assert diagnosis.headline in capsys.readouterr().out
    assert (diagnosis.baselines, set(diagnosis.reference["train_annotated"]), diagnosis.reference["texts"]) == (
        [],
        {0},
        None,
    )
    assert "course of the training" not in [check.title for check in diagnosis.checks]
