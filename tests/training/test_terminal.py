"""What a person sees of a long training: progress, curves, quiet libraries, and its end when the time is up."""

import io
import logging
import sys
import time

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

import run_classifier
from conftest import SAMPLE, run_script, training_flags
from utils.core.arguments import seconds_of
from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.log import libraries_speak, log, say
from utils.core.noise import LibraryNoise, keep_noise_in
from utils.core.progress import Progress, show_progress_of
from utils.doctor.finding import Diagnosis
from utils.training.log import LEVELS, MOST_POINTS, sparkline, training_curves
from utils.training.time_limit import MARGIN, TimeLimit

# Quiet libraries


def test_libraries_write_to_the_log_of_the_run(trained):
    noise = (trained / "run.log").read_text(encoding="utf-8")
    assert "LOAD REPORT" in noise
    assert "classifier.out_proj.weight" in noise
    assert "\r" not in noise
    assert "run.log" in read_json(trained / "manifest.json")["files"]


def test_what_a_training_prints(tiny, tmp_path):
    flags = training_flags(tiny("roberta"), tmp_path / "run", disable_tqdm=None, logging_steps=10)
    done = run_script("run_classifier.py", *flags)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    for fragment in ("LOAD REPORT", "Loading weights", "Writing model", "it/s", "\r", "%|", "[WARNING]", "\x1b"):
        assert fragment not in shown
    assert "Writing model" in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    for title in ("loss ", "validation loss ", "macro-F1 at 0.5 ", "macro-F1 tuned "):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(title) and set(line) & set(LEVELS)]
        assert line.split()[-1] != line.split()[-2]
    assert done.stdout.count("epoch 2.00: validation loss ") == 1


@pytest.mark.parametrize("hands_on", [False, True], ids=["keeps_records", "hands_records_on"])
def test_libraries_are_kept_aside_and_errors_shown(capsys, tmp_path, monkeypatch, hands_on):
    # transformers hands its records on to the root logger where CI=true.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", hands_on)

    def libraries():
        print("a fragment\ran overwritten fragment\ra whole line")
        print("no line break", end="", file=sys.stderr)
        logging.getLogger("somebody").warning("a record")
        logging.getLogger("somebody").error("an error")
        logging.getLogger("transformers").error("another error")

    with LibraryNoise():
        libraries()
        log("what is done")
        say("what was asked for")
        with libraries_speak():
            print("a question")
        keep_noise_in(tmp_path / "run.log")
        print("later")
    shown, noise = capsys.readouterr(), (tmp_path / "run.log").read_text(encoding="utf-8")
    assert shown.out == "what was asked for\na question\n"
    assert shown.err == "somebody: an error\ntransformers: another error\nwhat is done\n"
    assert noise.startswith("a whole line\n")
    assert noise.endswith("later\n")
    assert all(text in noise for text in ("a record", "no line break"))
    print("to the terminal again")
    assert capsys.readouterr().out == "to the terminal again\n"


@pytest.mark.parametrize(("error", "told"), [(UserError("a mistake"), False), (ValueError("a bug"), True)])
def test_a_bug_shows_what_libraries_said(capsys, tmp_path, error, told):
    def fail(path=None):
        with LibraryNoise():
            print("a clue")
            if path:
                keep_noise_in(path)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert ("a clue" in capsys.readouterr().err) == told
    with pytest.raises(type(error)):
        fail(tmp_path / "run.log")
    assert (f"is in {tmp_path / 'run.log'}" in capsys.readouterr().err) == told


# Progress


def test_progress_in_lines(capsys, monkeypatch):
    monkeypatch.setattr("utils.core.progress.SECONDS_BETWEEN_LINES", 1e-6)
    show_progress_of(datasets.utils.tqdm)
    datasets.enable_progress_bars()
    with LibraryNoise():
        with Progress("training", 4, "steps") as bar:
            bar.set_postfix_str("loss 0.500", refresh=False)
            for _ in range(4):
                time.sleep(0.01)
                bar.update()
                bar.say("a line of its own")
        datasets.Dataset.from_dict({"a": range(3)}).map(lambda row: row, desc="tokenizing", new_fingerprint="x")
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len([line for line in lines if line.startswith("training: ")]) == 4
    assert lines[1].startswith("training: 2 of 4 steps, ")
    assert lines[1].endswith(" steps/s, 0 s left, loss 0.500")
    assert any(line.startswith("tokenizing: 3 of 3 examples, ") for line in lines)
    assert shown.out == "a line of its own\n" * 4


def test_short_phases_say_nothing_without_a_terminal(capsys):
    with Progress("reading", 1000, "rows") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_in_place_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("reading", 3, "rows", mininterval=0) as bar:
        bar.update(3)
    drawn = sys.stderr.getvalue()
    assert "reading: 100%" in drawn
    assert "\n" not in drawn
    assert drawn.endswith("\r")


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_sparkline(values):
    line = sparkline(values)
    assert len(line) == min(len(values), MOST_POINTS)
    assert set(line) <= set(LEVELS)
    if 1 < len(values) <= MOST_POINTS and max(values) - min(values) > 1e-6:
        assert line[values.index(min(values))] == LEVELS[0]
        assert line[values.index(max(values))] == LEVELS[-1]


def test_curves_of_a_training():
    history = [{"loss": 1.0}, {"eval_loss": 0.9, "eval_f1_macro": 0.1}, {"loss": 0.5}, {"train_loss": 3.0}]
    assert training_curves(history) == "loss  1.000 █▁ 0.500"
    assert training_curves([]) == ""
    scores = [{"eval_jaccard": value, "eval_jaccard_half_width": 0.02} for value in (0.2, 0.4)]
    assert training_curves(scores, "jaccard") == "Jaccard at 0.5  0.200 ± 0.020 ▁█ 0.400 ± 0.020"


# The time limit


@pytest.mark.parametrize(
    ("limit", "seconds"), [("90s", 90), ("25m", 1500), ("1h30m", 5400), ("1.5h", 5400), ("1H30M", 5400)]
)
def test_time_limits(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["", "0s", "25", "m", "5m1h", "1e3s", "nan", "five minutes"])
def test_words_that_are_no_time_limit(limit, tiny, tmp_path, refused):
    message = refused(run_classifier.main, *training_flags(tiny("roberta"), tmp_path, time_limit=limit))
    assert message == f"error: --time_limit {limit}: write 90s, 25m or 1h30m"


def check_ended(folder, shown, most_steps):
    """The run is finished as any other, and says that its limit has ended it."""
    results = read_json(folder / "all_results.json")
    assert 1 <= results["steps"] < results["steps_planned"] == most_steps
    assert results["steps"] == read_json(folder / "trainer_state.json")["global_step"]
    assert results["eval_samples"] == 124
    assert f"the training ends at step {results['steps']} of {most_steps}" in shown
    assert "manifest.json" in {path.name for path in folder.iterdir()}
    note = f"The training was ended by its time limit of {results['time_limit']:.0f} s, after {results['steps']:,} of"
    assert note in shown
    assert note in (folder / "README.md").read_text(encoding="utf-8")
    return results


def test_a_training_ends_in_time_with_its_best_checkpoint(tiny, tmp_path, capsys, refused):
    folder = tmp_path / "run"
    flags = training_flags(tiny("roberta"), folder, num_train_epochs=2000, time_limit="18s")
    begun = time.monotonic()
    run_classifier.main(flags)
    taken = time.monotonic() - begun
    shown = capsys.readouterr()
    results = check_ended(folder, shown.err + shown.out, 34000)
    diagnosis = Diagnosis.load(folder)
    kinds = [finding.kind for finding in diagnosis.findings]
    assert kinds.count("time_limit") == 1
    assert sum(finding.severity == "problem" for finding in diagnosis.findings) <= 1
    assert not {"not_trained", "still_learning", "same_for_every_text", "chance", "below_baseline"} & set(kinds)
    said = f"--time_limit (18 s) ended the training at step {results['steps']:,} of 34,000"
    assert shown.out.count(said) == 1
    state = read_json(folder / "trainer_state.json")
    scores = [entry["eval_map"] for entry in state["log_history"] if "eval_map" in entry]
    assert results["eval_map"] == pytest.approx(max(scores, default=results["eval_map"]))
    assert taken < 2 * 18  # the machine of the tests does other things too
    assert "holds a finished run" in refused(run_classifier.main, *flags)
    from utils.report.page import write_run_report

    assert "ended by its time limit" in write_run_report(folder).read_text(encoding="utf-8")


@pytest.mark.processes
def test_processes_stop_at_the_same_step(tiny, tmp_path):
    flags = training_flags(tiny("roberta"), tmp_path / "run", num_train_epochs=2000, time_limit="30s")
    done = run_script("run_classifier.py", *flags, processes=2, timeout=200)
    assert done.returncode == 0, done.stderr
    check_ended(tmp_path / "run", done.stderr + done.stdout, 18000)


def test_zero_shot_has_no_time_limit(tiny, tmp_path, refused):
    import run_sft_labels

    flags = ("--model_name_or_path", tiny("qwen2"), "--validation_file", SAMPLE / "validation.csv", "--eval_only")
    message = refused(run_sft_labels.main, *flags, "--time_limit", "5m", "--output_dir", tmp_path / "run")
    assert "--time_limit ends trainings" in message


class Clock:
    """Stands for time.monotonic."""

    now = 0.0

    def __call__(self):
        return self.now


@given(
    step=st.floats(0.05, 5),
    evaluation=st.floats(0.5, 60),
    saving=st.floats(0.1, 20),
    steps_of_an_epoch=st.integers(5, 200),
    limit=st.floats(600, 3600),
    noise=st.lists(st.floats(0.9, 1.1), min_size=1, max_size=20),
)
def test_it_ends_in_time_whatever_takes_how_long(step, evaluation, saving, steps_of_an_epoch, limit, noise):
    from types import SimpleNamespace
    from unittest.mock import patch

    clock = Clock()
    args = SimpleNamespace(
        train_batch_size=8, gradient_accumulation_steps=1, world_size=1, eval_strategy="epoch", device="cpu"
    )
    state, control = TrainerState(max_steps=10**9), TrainerControl()
    rows = int(8 * evaluation / step)  # so that an evaluation costs at most what training on its rows does

    def pass_time(seconds):
        clock.now += seconds * noise[state.global_step % len(noise)]

    def evaluate_and_save():
        if control.should_evaluate:
            pass_time(evaluation)
            callback.on_evaluate(args, state, control, metrics={"eval_runtime": evaluation})
        if control.should_save:
            pass_time(saving)
            callback.on_save(args, state, control)
        control.should_evaluate = control.should_save = False

    with patch("time.monotonic", clock), patch("utils.training.time_limit.log"):
        callback = TimeLimit(limit, limit, rows, cost=1.0, saving=saving, report=True)
        callback.on_train_begin(args, state, control)
        while not control.should_training_stop:
            pass_time(step)
            state.global_step += 1
            callback.on_step_end(args, state, control)
            evaluate_and_save()
            if state.global_step % steps_of_an_epoch == 0 or control.should_training_stop:
                control.should_evaluate = control.should_save = True
                callback.on_epoch_end(args, state, control)
                evaluate_and_save()
    pass_time(evaluation + 2 * saving)  # of the finished run
    assert clock.now + callback.finishing <= limit
    # Not much earlier than it must.
    reserve = MARGIN * (2 * evaluation + 3 * saving) + callback.finishing
    assert clock.now + 2 * reserve + 2 * MARGIN * step + evaluation > limit
