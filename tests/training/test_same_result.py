"""The same global batch gives the same training, however it is cut; a killed run resumes to the same result."""

import json
import signal
import time

import pandas as pd
import pytest

import run_classifier
import run_sft_labels
from conftest import SAMPLE, assert_close, run_script, start_script, training_flags, undivided_flags
from utils.training import loop as training

# Rows of each process at once, accumulation steps and processes: 8 rows a step in all.
CUTS = [(4, 1, 2), (2, 2, 2)]


def training_curve(folder):
    """Loss and gradient norm of each step, and the validation scores."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    steps = [[entry["loss"], entry["grad_norm"]] for entry in log if "loss" in entry]
    scores = [[entry["eval_loss"], entry["eval_f1_macro"], entry["eval_map"]] for entry in log if "eval_loss" in entry]
    return steps, scores


@pytest.fixture(scope="module")
def reference_curve(undivided):
    steps, scores = training_curve(undivided)
    assert len(steps) == 16
    assert steps[-1][0] < steps[0][0]
    return steps, scores


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"),
    [(4, 2, 1), (2, 4, 1), (8, 1, 1), *(pytest.param(*cut, marks=pytest.mark.processes) for cut in CUTS)],
)
def test_gradient_does_not_depend_on_the_cut(
    model_without_dropout, reference_curve, tmp_path, micro_batch, accumulation, processes
):
    flags = undivided_flags(model_without_dropout, tmp_path / "run", micro_batch, accumulation, keep_checkpoints=True)
    if processes == 1:
        run_classifier.main(flags)
    else:
        done = run_script("run_classifier.py", *flags, processes=processes)
        assert done.returncode == 0, done.stderr
    steps, scores = training_curve(tmp_path / "run")
    for step, expected in zip(steps, reference_curve[0], strict=True):
        assert step == pytest.approx(expected, abs=1e-4, rel=1e-4)
    for evaluation, expected in zip(scores, reference_curve[1], strict=True):
        assert evaluation == pytest.approx(expected, abs=1e-4)


def generator_flags(model, folder, micro_batch, accumulation):
    return undivided_flags(model, folder, micro_batch, accumulation, keep_checkpoints=True) + [
        *("--max_eval_samples", "24", "--per_device_eval_batch_size", "12", "--max_nodes", "20")
    ]


@pytest.fixture(scope="module")
def generator_reference(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "generator-8x1"
    run_sft_labels.main(generator_flags(tiny("qwen2"), folder, 8, 1))
    steps, scores = training_curve(folder)
    assert len(steps) == 16
    assert steps[-1][0] < steps[0][0]
    return steps, scores, load_predictions(folder)


def load_predictions(folder):
    return pd.read_parquet(folder / "predictions" / "validation.parquet")


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"),
    [(4, 2, 1), *(pytest.param(*cut, marks=pytest.mark.processes) for cut in CUTS)],
)
def test_generator_does_not_depend_on_the_cut(
    tiny, generator_reference, tmp_path, micro_batch, accumulation, processes
):
    flags = generator_flags(tiny("qwen2"), tmp_path / "run", micro_batch, accumulation)
    if processes == 1:
        run_sft_labels.main(flags)
    else:
        done = run_script("run_sft_labels.py", *flags, processes=processes)
        assert done.returncode == 0, done.stderr
    steps, scores = training_curve(tmp_path / "run")
    for step, expected in zip(steps, generator_reference[0], strict=True):
        assert step == pytest.approx(expected, abs=1e-4, rel=1e-4)
    for evaluation, expected in zip(scores, generator_reference[1], strict=True):
        assert evaluation == pytest.approx(expected, abs=1e-4)
    predictions, expected = load_predictions(tmp_path / "run"), generator_reference[2]
    assert list(predictions["id"]) == list(expected["id"])
    columns = [name for name in predictions if name.startswith("probability/")]
    assert abs(predictions[columns] - expected[columns]).to_numpy().max() < 1e-4


def long_run_flags(model, folder):
    return training_flags(
        model, folder, num_train_epochs=6, max_train_samples=256, logging_steps=1, per_device_train_batch_size=32
    )


def without_times(results):
    return {name: value for name, value in results.items() if "runtime" not in name and "per_second" not in name}


@pytest.fixture(scope="module")
def undisturbed_run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run_script("run_classifier.py", *long_run_flags(tiny("roberta"), folder))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_results(folder, expected):
    results, others = (without_times(json.loads((run / "all_results.json").read_text())) for run in (folder, expected))
    for values in (results, others):
        values.pop("peak_memory_bytes")
    assert_close(results, others)


@pytest.mark.processes
def test_killed_run_resumes_to_the_same_result(tiny, tmp_path, refused, undisturbed_run):
    folder = tmp_path / "killed"
    flags = long_run_flags(tiny("roberta"), folder)
    process = start_script("run_classifier.py", *flags)
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "all_results.json").exists()
    # What a kill while saving leaves behind.
    (folder / "checkpoint-9999").mkdir()
    (folder / "checkpoint-9999" / "model.safetensors").write_bytes(b"half")
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "model.safetensors").write_bytes(b"half")

    line = refused(run_classifier.main, *flags, "--seed", "5")
    assert "begun with seed = 42, now it is 5" in line
    line = refused(run_classifier.main, *flags, "--max_train_samples", "255")
    assert "max_train_samples" in line

    rows = pd.read_csv(SAMPLE / "train.csv", dtype=str)
    rows["Tweet"] += "!"
    rows.to_csv(tmp_path / "train.csv", index=False)
    assert "begun with train_file" in refused(run_classifier.main, *flags, "--train_file", tmp_path / "train.csv")

    done = run_script("run_classifier.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert not list(folder.glob("checkpoint-*"))
    assert not (folder / ".unfinished").exists()

    assert_same_results(folder, undisturbed_run)


def stop_in_the_second_epoch(script, flags, folder, processes=None):
    """Send SIGTERM in the middle of an epoch, as a job scheduler does, to the launcher or the script; then resume."""
    process = start_script(script, *flags, processes=processes)
    for line in process.stdout:
        if line.startswith("epoch 1."):
            break
    process.send_signal(signal.SIGTERM)
    if not processes:  # the same order once more, as of a scheduler that tells both the group and the script
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert processes or process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: saving a checkpoint" in errors
    assert "give the same command again" in errors
    checkpoint = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    before = json.loads((checkpoint / "trainer_state.json").read_text())
    done = run_script(script, *flags, processes=processes)
    assert done.returncode == 0, done.stderr
    assert f"resuming from {checkpoint}" in done.stderr

    # Time and speeds are of both parts; Trainer's own, in its log, are of the second one.
    results = json.loads((folder / "all_results.json").read_text())
    after = json.loads((folder / "trainer_state.json").read_text())
    [second] = [entry["train_runtime"] for entry in after["log_history"] if "train_runtime" in entry]
    first = before["stateful_callbacks"]["TrainingTime"]["args"]["earlier"]
    assert first > 0
    assert results["train_runtime"] == pytest.approx(first + second, abs=1e-3)
    assert results["train_steps_per_second"] * results["train_runtime"] == pytest.approx(after["global_step"], rel=0.01)
    rows = results["train_samples"] * after["epoch"]
    assert results["train_samples_per_second"] * results["train_runtime"] == pytest.approx(rows, rel=0.01)


@pytest.mark.processes
def test_run_that_is_told_to_stop_resumes_to_the_same_result(tiny, tmp_path, undisturbed_run):
    folder = tmp_path / "stopped"
    stop_in_the_second_epoch("run_classifier.py", long_run_flags(tiny("roberta"), folder), folder)
    assert_same_results(folder, undisturbed_run)


def test_a_second_signal_counts_only_some_seconds_after_the_first(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(training, "SECONDS_OF_ONE_STOP", 60)
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    callback = training.StopOnSignal()
    callback.on_train_begin(None, None, None)
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert (callback.received, ended) == (signal.SIGTERM, [])
        monkeypatch.setattr(training, "SECONDS_OF_ONE_STOP", 0)
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]  # what would have ended the process
    finally:
        callback._restore()
        signal.signal(signal.SIGTERM, earlier)
    assert capsys.readouterr().err == "SIGTERM: saving a checkpoint after this step\n"


@pytest.mark.processes
@pytest.mark.parametrize("script", ["run_classifier.py", "run_sft_labels.py"])
def test_two_processes_that_are_told_to_stop_go_on_with_the_same_rows(tiny, model_without_dropout, tmp_path, script):
    """Compared with one process that was not disturbed: the same loss at every step, before and after."""
    generates = script == "run_sft_labels.py"
    model = tiny("qwen2") if generates else model_without_dropout
    more = {"max_nodes": 20, "max_eval_samples": 12} if generates else {}
    curves = []
    for processes in (None, 2):
        folder = tmp_path / str(processes)
        flags = training_flags(
            model, folder, num_train_epochs=3, max_train_samples=192, logging_steps=1, bf16=False,
            per_device_train_batch_size=16 if processes else 32, eval_strategy="no", **more,
        )  # fmt: skip
        if processes:
            stop_in_the_second_epoch(script, flags, folder, processes)
        else:
            (run_sft_labels if generates else run_classifier).main(flags)
        curves.append(training_curve(folder)[0])
    assert len(curves[0]) == 18
    for step, expected in zip(*curves, strict=True):
        assert step == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_overwriting_a_finished_run(tiny, tmp_path):
    folder = tmp_path / "run"
    flags = training_flags(tiny("qwen2"), folder, num_train_epochs=1, max_train_samples=32)
    run_classifier.main([*flags, "--use_peft", "--merge_adapter"])
    (folder / "notes.txt").write_text("mine")
    first = json.loads((folder / "all_results.json").read_text())
    run_classifier.main([*flags, "--overwrite", "--seed", "3"])
    second = json.loads((folder / "all_results.json").read_text())
    assert first["train_loss"] != second["train_loss"]
    assert (folder / "notes.txt").read_text() == "mine"
    # Nothing of the adapter run is left to be taken for the new model.
    assert not list(folder.glob("adapter*"))
    assert not (folder / "merged").exists()


@pytest.mark.processes
def test_three_processes_predict_every_row_once_and_in_order(tiny, trained, tmp_path):
    """A classifier and a label generator together."""
    generator = tmp_path / "generator"
    run_sft_labels.main([*generator_flags(tiny("qwen2"), generator, 8, 1), "--num_train_epochs", "1"])
    rows = pd.read_csv(SAMPLE / "test.csv", dtype=str).head(10)
    rows.to_csv(tmp_path / "test.csv", index=False)
    frames = []
    for processes in (3, None):
        name = f"{processes}.parquet"
        files = ["--output_file", tmp_path / f"{processes}.csv", "--probabilities_file", tmp_path / name]
        flags = [
            "--model",
            trained,
            generator,
            "--test_file",
            tmp_path / "test.csv",
            *files,
            "--per_device_eval_batch_size",
            2,
        ]
        done = run_script("make_submission.py", *flags, processes=processes)
        assert done.returncode == 0, done.stderr
        frames.append(pd.read_parquet(tmp_path / name))
    assert list(frames[0]["ID"]) == list(frames[1]["ID"]) == list(rows["ID"])
    difference = frames[0].iloc[:, 1:].to_numpy() - frames[1].iloc[:, 1:].to_numpy()
    assert abs(difference).max() < 0.01  # other batches, other bf16 rounding


def test_a_mistake_is_told_once_by_two_processes(tmp_path):
    flags = training_flags("m", tmp_path / "run", train_file=tmp_path / "none.csv")
    done = run_script("run_classifier.py", *flags, processes=2)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {tmp_path / 'none.csv'}: no such file"
    ]
    assert "[rank" not in done.stderr  # no traceback of a process that waits for the other in vain
