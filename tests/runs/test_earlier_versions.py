"""Folders that an earlier version of the project has written, or a later one."""

import shutil
from dataclasses import fields

import predict
from utils.core.arguments import ModelArguments
from utils.core.files import read_json, write_json
from utils.runs.manifest import write_manifest

# What the first version wrote.
TASK = (
    *("labels", "label_columns", "id_column", "label_delimiter", "normalize_users", "normalize_urls", "max_length"),
    *("train_rows", "train_positives"),
)
NEW_FLAGS = {field.name for field in fields(ModelArguments)} & {"pooling", "attention", "trust_remote_code"}


def answers(folder, capsys, *more):
    predict.main(["--model", str(folder), "--json", "so happy for you", "not again...", *more])
    return capsys.readouterr().out


def test_a_run_of_the_first_version_is_read_with_defaults_for_what_it_lacks(trained, tmp_path, capsys):
    old = shutil.copytree(trained, tmp_path / "old")
    task, arguments, thresholds = (read_json(old / f"{name}.json") for name in ("task", "run_args", "thresholds"))
    [text_column] = task["text_columns"]
    write_json(old / "task.json", {name: task[name] for name in TASK} | {"text_column": text_column})
    write_json(old / "run_args.json", {name: arguments[name] for name in arguments if name not in NEW_FLAGS})
    kept = ("strategy", "shrinkage", "thresholds")
    write_json(old / "thresholds.json", {name: thresholds[name] for name in kept})
    (old / "doctor.json").unlink()
    write_manifest(old)
    assert answers(old, capsys) == answers(trained, capsys)


def test_a_run_of_a_later_version_is_told_for_what_it_is(trained, tmp_path, refused):
    new = shutil.copytree(trained, tmp_path / "new")
    write_json(new / "task.json", read_json(new / "task.json") | {"label_hierarchy": []})
    write_manifest(new)
    line = refused(predict.main, "--model", new, "a text")
    assert "made by another version of this project, whose task.json says more (label_hierarchy)" in line
    assert "train again" in line
