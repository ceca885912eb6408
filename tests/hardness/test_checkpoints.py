"""Checkpoints with a file cut, emptied, swapped or lost: a training goes on from a whole one, or says why not."""

import json
import shutil

import pytest

import run_classifier
from conftest import undivided_flags
from utils.runs import folder as run_folder
from utils.runs.checkpoints import FILES_FILE


@pytest.fixture
def begun(undivided, tmp_path):
    """A run that was killed after its last checkpoint: checkpoint-8 and checkpoint-16."""
    folder = shutil.copytree(undivided, tmp_path / "begun")
    for name in ("manifest.json", "all_results.json"):
        (folder / name).unlink()
    assert run_folder.find_checkpoint(folder, overwrite=False) == str(folder / "checkpoint-16")
    return folder


DAMAGES = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "of another step": lambda path, other: shutil.copy(other, path),
    "gone": lambda path, other: path.unlink(),
    "a folder": lambda path, other: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json",
     "tokenizer.json", "tokenizer_config.json", "training_args.bin", "checkpoint_files.json"],
)  # fmt: skip
def test_checkpoints_that_were_damaged(begun, name, damage):
    """Trainer goes on from most of these, to another result, without a word."""
    last, before = begun / "checkpoint-16", begun / "checkpoint-8"
    same = (before / name).read_bytes() == (last / name).read_bytes()
    DAMAGES[damage](last / name, before / name)
    found = run_folder.find_checkpoint(begun, overwrite=False)
    # Without the list of its files a checkpoint is one whose process was killed just before it was written.
    still_whole = (same and damage == "of another step") or (name, damage) == ("checkpoint_files.json", "gone")
    assert found == str(last if still_whole else before)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(begun, undivided, model_without_dropout, capsys):
    shutil.copy(begun / "checkpoint-8" / "optimizer.pt", begun / "checkpoint-16" / "optimizer.pt")
    flags = undivided_flags(model_without_dropout, begun, 8, keep_checkpoints=True, save_total_limit=2)
    run_classifier.main(flags)
    said = capsys.readouterr().err
    assert f"removing {begun / 'checkpoint-16'}, from which no training can go on: optimizer.pt" in said
    assert f"resuming from {begun / 'checkpoint-8'}" in said
    found, expected = (json.loads((folder / "all_results.json").read_text()) for folder in (begun, undivided))
    for name in ("train_loss", "eval_f1_macro", "eval_f1_macro_tuned", "eval_map"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_checkpoints_that_are_all_damaged(begun, model_without_dropout, refused):
    for step in (8, 16):
        (begun / f"checkpoint-{step}" / "scheduler.pt").write_bytes(b"")
    flags = undivided_flags(model_without_dropout, begun, 8, keep_checkpoints=True, save_total_limit=2)
    line = refused(run_classifier.main, *flags)
    assert f"no training can go on from {begun / 'checkpoint-16'}: scheduler.pt" in line
    assert "--overwrite" in line
    assert (begun / "checkpoint-8").exists()  # what is left of it may still be of use


def test_the_best_checkpoint_is_needed_too(begun):
    """Its weights are the result; Trainer would keep the last ones instead."""
    state = begun / "checkpoint-16" / "trainer_state.json"
    content = json.loads(state.read_text()) | {"best_model_checkpoint": "elsewhere/checkpoint-8", "best_global_step": 8}
    state.write_text(json.dumps(content))
    (begun / "checkpoint-16" / FILES_FILE).unlink()
    assert run_folder.find_checkpoint(begun, overwrite=False) == str(begun / "checkpoint-16")
    shutil.rmtree(begun / "checkpoint-8")
    assert run_folder.find_checkpoint(begun, overwrite=False) is None


def test_a_run_that_was_moved_finds_its_best_checkpoint(begun, undivided, model_without_dropout):
    """The state of a checkpoint names the best one by the path that it was saved under."""
    shutil.rmtree(begun / "checkpoint-16")
    state = begun / "checkpoint-8" / "trainer_state.json"
    content = json.loads(state.read_text())
    assert content["best_model_checkpoint"] == str(undivided / "checkpoint-8")
    state.write_text(json.dumps(content | {"best_metric": 1e9}))  # so that it stays the best
    (begun / "checkpoint-8" / FILES_FILE).unlink()
    run_classifier.main(undivided_flags(model_without_dropout, begun, 8, keep_checkpoints=True, save_total_limit=2))
    found = json.loads((begun / "trainer_state.json").read_text())
    assert found["best_model_checkpoint"] == str(begun / "checkpoint-8")
    assert (begun / "model.safetensors").read_bytes() == (begun / "checkpoint-8" / "model.safetensors").read_bytes()
