"""The check of GPUs, on the CPU with toy models: what needs a GPU is listed as not done, and was never executed."""

import json
import math
import subprocess

import pytest

from benchmarks import gpu_check, gpu_checks, gpu_machine, gpu_trainings
from conftest import ROOT, WARM_PYTHON

NEEDS_A_GPU = {"fp16_scaler", "paged_optimizer_resumes", "same_as_cpu", "fsdp2_alone", "zero_alone"}


def gpu_check_command(folder, *arguments):
    words = ["-m", "benchmarks.gpu_check", "--output_dir", folder, *arguments]
    return subprocess.run([WARM_PYTHON, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.processes
def test_all_checks_on_the_cpu(tmp_path):
    results = tmp_path / "results.json"
    done = gpu_check_command(tmp_path / "out", "--device", "cpu", "--results", results)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(results.read_text())
    assert content["device"] == "cpu"
    assert content["versions"]["torch"]
    rows = dict(zip([name for _, _, name in gpu_checks.CHECKS], content["checks"], strict=True))
    assert {name for name, row in rows.items() if row["result"] == "not done"} == NEEDS_A_GPU
    for name, row in rows.items():
        assert row["result"] == ("not done" if name in NEEDS_A_GPU else "pass")
        assert bool(row["why"]) == (name in NEEDS_A_GPU)
        assert f"{row['number']:2} {row['check']}" in done.stdout
        assert (tmp_path / "out" / f"{name}.log").exists()
    assert not (tmp_path / "out" / "work").exists()
    for name, micro_batch, tokens in (("qlora_head", 8, 128), ("label_generation", 16, 256)):
        figures = rows[name]["figures"]
        assert (figures["micro-batch"], figures["longest text, tokens"]) == (micro_batch, tokens)  # the recipe's
        assert figures["peak memory, GiB"] is None  # of a GPU, which there is not
        assert figures["preflight's estimate, GiB"] > 0
        assert figures["tokens/s, with padding"] > 0
    scored = rows["label_scoring"]["figures"]
    assert 0 < scored["probability reached by scoring"] <= 1
    assert rows["fp16_weights_refused"]["figures"] == {"exit status": 2}
    for name in ("two_processes", "sigterm_resumes"):
        assert rows[name]["figures"]["steps"] == 30
        assert rows[name]["figures"]["largest difference of a loss"] < 1e-4
    assert 0 < rows["sigterm_resumes"]["figures"]["stopped at step"] < 30


def test_a_machine_without_a_gpu(tmp_path):
    done = gpu_check_command(tmp_path)
    assert done.returncode == 2
    assert "error: torch cannot compute on cuda: " in done.stderr
    assert "pass --device cpu" in done.stderr


def test_checks_that_there_are_not(tmp_path, refused):
    assert "--checks 13: there are 1 to 12" in refused(gpu_check.main, "--checks", 1, 13, "--output_dir", tmp_path)
    assert "--minutes 0.0" in refused(gpu_check.main, "--minutes", 0, "--output_dir", tmp_path)


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    """Arguments and the shared folder of checks that run alone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.executable", WARM_PYTHON)
    args = gpu_check.CheckArguments(device="cpu", output_dir=str(tmp_path))
    machine = gpu_machine.Machine("cpu", "cpu", False, None, None, "float32", 0.1, {})
    gpu_check.write_json(tmp_path / "machine.json", machine.__dict__)
    return args, machine, tmp_path


def test_a_check_that_crashes_or_takes_too_long_is_an_answer(on_cpu):
    args, _, folder = on_cpu
    crashed = gpu_check.outcome_of("no_such_check", args, folder, math.inf)
    assert crashed == {"result": "fail", "why": "KeyError: 'no_such_check'", "figures": {}}
    late = gpu_check.outcome_of("qlora_head", args, folder, gpu_check.time.monotonic() + 0.2)
    assert (late["result"], late["why"][:5]) == ("not done", "time:")
    over = gpu_check.outcome_of("qlora_head", args, folder, 0.0)
    assert (over["result"], over["why"][:5]) == ("not done", "time:")
    shown = gpu_check.table([{"number": 1, "check": "a"} | crashed, {"number": 2, "check": "b"} | late])
    assert " 1 a: fail: KeyError" in shown
    assert " 2 b: not done: time" in shown


def test_devices_are_compared(on_cpu, monkeypatch):
    """The comparison of a GPU with the CPU, of the CPU with itself; and with weights that are not the same."""
    _, machine, folder = on_cpu
    monkeypatch.setattr(gpu_checks, "ROWS", 24)
    figures, problems = gpu_checks.compare_devices(machine, folder, "cpu")
    assert problems == []
    assert figures["rows"] == 24
    assert [value for name, value in figures.items() if "fp32" in name] == [0, 0]
    assert all(0 < value < 0.1 for name, value in figures.items() if "float16" in name)
    monkeypatch.setattr(gpu_checks, "SAME_PROBABILITIES", -1.0)
    assert len(gpu_checks.compare_devices(machine, folder, "cpu")[1]) == 2


def test_share_of_time():
    assert gpu_trainings.covered([]) == 0
    assert gpu_trainings.covered([(0, 2), (1, 3), (1, 2), (5, 6)]) == 4


def test_operations_of_a_step(tiny):
    """4 for each frozen weight of a linear layer, 6 for each trained one; 4-bit weights count in full."""
    from utils.core.arguments import ModelArguments
    from utils.data.task import Task
    from utils.models.adapters import add_lora
    from utils.models.classifier import load_with_head
    from utils.models.loading import load_tokenizer

    lora = ModelArguments(model_name_or_path=tiny("qwen2"), use_peft=True, load_in_4bit=True, lora_r=4, dtype="float32")
    model = load_with_head(lora, Task(["a", "b"], ["text"], ["a", "b"]), load_tokenizer(tiny("qwen2")))
    frozen = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # layers x (q and o, k and v, MLP)
    head = 2 * 64
    assert gpu_trainings.training_flops_per_token(model) == 4 * frozen + 6 * head
    trained = 4 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))  # r x layers x (in + out)
    assert gpu_trainings.training_flops_per_token(add_lora(model, lora)) == 4 * (frozen + head) + 6 * (trained + head)


def test_what_a_script_said():
    ours = "warning: slow\nerror: --x 1: choose another\nTraceback\nValueError: late"
    assert gpu_trainings.reason_of(ours) == "error: --x 1: choose another"
    launched = "ValueError: no\nerrors.ChildFailedError:\nsubprocess.CalledProcessError: Command 'x' failed\n"
    assert gpu_trainings.reason_of(launched) == "ValueError: no"
    assert gpu_trainings.reason_of("Traceback\n  line\nValueError: no\n") == "ValueError: no"
    assert gpu_trainings.reason_of("") == "it said nothing"


def test_random_models_have_the_real_shapes():
    from benchmarks.random_models import bytes_of_model

    # Qwen2.5-7B has 7.62 B weights, 0.54 B of them in its language head; Qwen3-0.6B 0.60 B; RoBERTa-base 0.124 B.
    sizes = {name: bytes_of_model(name)[0] / 2e9 for name in ("qwen2.5-7b", "qwen3-0.6b", "roberta-base")}
    assert sizes == pytest.approx({"qwen2.5-7b": 7.62 - 0.545, "qwen3-0.6b": 0.596, "roberta-base": 0.124}, abs=0.005)
