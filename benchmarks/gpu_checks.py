"""The checks of benchmarks/gpu_check.py, which runs each in a process of its own:

    python -m benchmarks.gpu_checks FUNCTION MACHINE.json FOLDER ANSWER.json

A check gets the machine and a folder that all checks share, and returns its figures, and what is wrong in words:
nothing where it passes. It raises `NotDone` where the machine cannot do it. What it prints goes into its log. On a CPU
the models are toys: what is right can be seen there, but memory and speed say nothing. **Nothing here has been run on a
GPU yet.**
"""

from __future__ import annotations

import csv
import gc
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from utils.core.files import read_json, write_json

GIB = 2**30
SAMPLE = Path("sample_data")
# What counts as the same: figures of one training on other processes, devices or after an interruption.
SAME_LOSS_FP32, SAME_LOSS_16_BIT = 1e-3, 1e-2
SAME_PROBABILITIES = 1e-4
MEMORY_TOLERANCE = 0.15  # of preflight's estimate
ROWS = 200  # whose probabilities are compared
CONTEXT = GIB  # what CUDA takes besides the tensors, and the allocator loses

CHECKS = (
    # number, title, function
    (1, "7B, QLoRA, head", "qlora_head"),
    (2, "0.6B, QLoRA, label generation", "label_generation"),
    (3, "fp16 with the gradient scaler", "fp16_scaler"),
    (4, "fp16 weights in full are refused", "fp16_weights_refused"),
    (5, "paged_adamw_8bit stops and resumes", "paged_optimizer_resumes"),
    (6, "the same probabilities as the CPU", "same_as_cpu"),
    (7, "label scoring against generate", "label_scoring"),
    (8, "RoBERTa: speed, batches of 1 and 128", "encoder"),
    (9, "merging 7B within memory", "merging"),
    (10, "FSDP2, one process", "fsdp2_alone"),
    (10, "ZeRO, one process", "zero_alone"),
    (11, "two processes on one device", "two_processes"),
    (12, "SIGTERM and resume", "sigterm_resumes"),
)


class NotDone(Exception):
    """The machine cannot do a check; the message is the reason."""


@dataclass
class Machine:
    """What the checks run on, and its speed.

    Args:
        device: `cuda` or `cpu`.
        name: of the device.
        bf16: whether its bf16 is fast; the scripts take fp16 on a GPU without.
        memory: bytes of the device.
        free: bytes of the device that no other program had taken before the first check.
        matmul_dtype: number format of the large matrix product that was measured.
        matmul_tflops: its speed, the best that a training could reach.
        devices: what `utils.core.environment` says of the machine.
    """

    device: str
    name: str
    bf16: bool
    memory: int | None
    free: int | None
    matmul_dtype: str
    matmul_tflops: float
    devices: dict[str, str]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def needs(self, gpu=0.0, host=0.0, disk=0.0, folder=Path(".")):
        """Raise `NotDone` where less is free: GiB of the GPU, of host memory, of the disk that a folder lies on."""
        if self.on_gpu:
            free = {"GPU memory": (gpu, self.free), "host memory": (host, host_memory_free())}
            free["disk space"] = (disk, shutil.disk_usage(folder).free)
            for what, (wanted, there) in free.items():
                if there is not None and there < wanted * GIB:
                    raise NotDone(f"needs {wanted:.1f} GiB of {what}, {there / GIB:.1f} are free")


def host_memory_free():
    """Bytes of memory that the kernel would give, None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


# The machine


def describe_machine(device):
    """The `Machine`; measures its matrix product."""
    import torch

    from utils.core.environment import devices
    from utils.models.precision import bf16_is_fast

    described = {name: value for name, value in devices() if name != "memory"}
    if device == "cpu":
        bf16 = bf16_is_fast(False)
        dtype = torch.bfloat16 if bf16 else torch.float32
        return Machine("cpu", "cpu", bf16, None, None, str(dtype)[6:], matmul_tflops("cpu", dtype, 1024, 5), described)
    free, total = torch.cuda.mem_get_info()
    bf16 = bf16_is_fast(True)
    dtype = torch.bfloat16 if bf16 else torch.float16
    speed = matmul_tflops("cuda", dtype, 8192 if free > 2 * GIB else 4096, 20)
    return Machine("cuda", torch.cuda.get_device_name(), bf16, total, free, str(dtype)[6:], speed, described)


def matmul_tflops(device, dtype, size, repetitions):
    """Speed of a square matrix product in 10^12 operations a second: the median of some, each timed by the device."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repetitions + 3):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            a @ b
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[3:]) / 1e12  # the first ones load and choose kernels


# Models and rows


def model_folder(machine, folder, shape, **changes):
    """The folder of a random model in a real shape, a toy on the CPU; the first check to need it makes it."""
    from benchmarks.random_models import build_random_model, bytes_of_model

    name = "-".join([shape, *(f"{key}-{value}" for key, value in changes.items())])
    target = folder / "models" / name
    if not (target / "config.json").exists():
        machine.needs(disk=bytes_of_model(shape)[0] / GIB + 1, host=4, folder=folder)
        print(f"writing a random {name}", flush=True)
        build_random_model(shape, target, toy=not machine.on_gpu, **changes)
    return str(target)


def long_rows(folder):
    """A training file of texts that fill any limit, eight tweets each; every 16th is one tweet: not all may be cut."""
    path = folder / "long.csv"
    if not path.exists():
        with open(SAMPLE / "train.csv", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for i, (name, text, *labels) in enumerate(rows):
                tweets = [text] if i % 16 == 0 else [row[1] for row in rows[i : i + 8]]
                writer.writerow([name, " ".join(tweets), *labels])
    return path


def words_of(flags):
    """Flags as words of a command line."""
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def measured_flags(machine, model, train_file, output_dir, **more):
    """Flags of a training that is measured: steps of full batches, nothing else."""
    return words_of(
        {
            "model_name_or_path": model,
            "train_file": train_file,
            "validation_file": SAMPLE / "validation.csv",
            "max_eval_samples": 8,
            "output_dir": output_dir,
            "max_steps": 20 if machine.on_gpu else 8,
            "gradient_accumulation_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "include_num_input_tokens_seen": True,
            "disable_tqdm": True,
        }
        | more
    )


# Measuring a training


def parse(script, words):
    """The dataclasses of a training script's arguments, checked as the script does."""
    import pkgutil

    from utils.core.parser import ArgumentParser
    from utils.training.experiment import Experiment

    trainer = {
        "run_classifier": "utils.training.arguments:TaskTrainingArguments",
        "run_sft_labels": "utils.training.generator:GeneratorTrainingArguments",
    }
    classes = [*pkgutil.resolve_name(f"{script}:ARGUMENTS"), pkgutil.resolve_name(trainer[script])]
    parsed = ArgumentParser(classes).parse(words)
    model_args, _, _, threshold_args, run_args, training_args = parsed
    Experiment(f"{script}.py", model_args, threshold_args, run_args, training_args)
    return parsed


def classifier_trainer(words):
    """`(trainer, preflight)` as run_classifier.py has them for a command line."""
    import transformers

    from utils.data.examples import read_training_data
    from utils.models.classifier import Classifier
    from utils.training.classifier import MultiLabelTrainer, make_loss
    from utils.training.preflight import Preflight

    model_args, data_args, loss_args, _, _, training_args = parse("run_classifier", words)
    train, validation, task = read_training_data(data_args, training_args.seed)
    transformers.set_seed(training_args.seed)
    classifier = Classifier.new(model_args, task, data_args.max_length)
    train_tokens, validation_tokens = classifier.encode(train), classifier.encode(validation)
    loss = make_loss(loss_args, train.labels)
    preflight = Preflight(classifier, train_tokens, training_args, loss.pos_weight.numpy())
    return MultiLabelTrainer(classifier, training_args, train_tokens, validation_tokens, loss), preflight


def generator_trainer(words):
    """`(trainer, preflight)` as run_sft_labels.py has them for a command line."""
    import transformers

    from utils.data.examples import read_training_data
    from utils.models.generator.generator import LabelGenerator
    from utils.training.generator import LabelTrainer
    from utils.training.preflight import Preflight

    model_args, data_args, generation_args, _, _, training_args = parse("run_sft_labels", words)
    train, validation, task = read_training_data(data_args, training_args.seed)
    transformers.set_seed(training_args.seed)
    generator = LabelGenerator.new(model_args, generation_args, task, data_args.max_length)
    train_tokens, validation_tokens = generator.encode(train), generator.encode(validation)
    preflight = Preflight(generator, train_tokens, training_args)
    # It does not evaluate: there is nothing to ask the model.
    return LabelTrainer(generator, training_args, train_tokens, validation_tokens, None, 0.0), preflight


def measure_training(machine, make, words):
    """Train for some steps and measure them.

    Args:
        machine: that trains.
        make: `classifier_trainer` or `generator_trainer`.
        words: command line.

    Returns:
        `(figures, problems, trainer)`.
    """
    from utils.training.loop import train_to_the_end

    trainer, preflight = make(words)
    print(preflight.summary(), flush=True)
    estimate = preflight.memory.total
    machine.needs(gpu=(estimate + CONTEXT) / GIB)
    clock = make_clock(machine.on_gpu)
    trainer.add_callback(clock)
    metrics = train_to_the_end(trainer, None, None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    speed = clock.tokens_per_second
    share = speed * training_flops_per_token(trainer.model) / (machine.matmul_tflops * 1e12)
    figures = {
        "micro-batch": trainer.args.per_device_train_batch_size,
        "longest text, tokens": preflight.texts.limit if preflight.texts.truncated else preflight.texts.longest,
        "weights, products": f"{preflight.approach.model_args.dtype}, {trainer.args.compute_dtype}",
        "peak memory, GiB": clock.peak / GIB if machine.on_gpu else None,
        "preflight's estimate, GiB": estimate / GIB,
        "peak / estimate": clock.peak / estimate if machine.on_gpu else None,
        "tokens/s, with padding": speed,
        "share of the matmul peak": share,
        "share of time the GPU is busy": clock.busy_share,
        "first loss": losses[0],
        "last loss": losses[-1],
        "unchanged tensors": metrics["unchanged_tensors"],
    }
    problems = []
    if not all(map(math.isfinite, losses)):
        problems.append("a loss is not finite")
    if metrics["unchanged_tensors"]:
        problems.append(f"{metrics['unchanged_tensors']} tensors did not change")
    if machine.on_gpu and abs(clock.peak / estimate - 1) > MEMORY_TOLERANCE:
        problems.append(f"the peak memory is {clock.peak / estimate:.2f} times preflight's estimate")
    return figures, problems, trainer


def make_clock(on_gpu):
    """A callback that times the steps, takes the peak memory, and on a GPU profiles the last steps."""
    import torch
    from transformers import TrainerCallback

    warm_up, profiled = (3, 5) if on_gpu else (2, 0)

    class Clock(TrainerCallback):
        def __init__(self):
            self.ends, self.peak, self.busy_share, self.profile = [], 0, None, None

        def on_train_begin(self, args, state, control, **kwargs):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()

        def on_step_begin(self, args, state, control, **kwargs):
            if profiled and state.global_step == state.max_steps - profiled:
                self.profile = GpuProfile()

        def on_step_end(self, args, state, control, **kwargs):
            if on_gpu:
                torch.cuda.synchronize()
            self.ends.append((time.perf_counter(), state.num_input_tokens_seen))
            if on_gpu and state.global_step == state.max_steps:
                self.busy_share, self.peak = self.profile.stop(), torch.cuda.max_memory_allocated()

        @property
        def tokens_per_second(self):
            (began, tokens_before), (ended, tokens) = self.ends[warm_up - 1], self.ends[-profiled - 1]
            return (tokens - tokens_before) / (ended - began)

    return Clock()


class GpuProfile:
    """Records from now on when the GPU works. `stop` returns the share of the time, None where nothing was recorded."""

    def __init__(self):
        import torch

        torch.cuda.synchronize()
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self.profile.start()
        self.began = time.perf_counter()

    def stop(self):
        import torch

        torch.cuda.synchronize()
        seconds = time.perf_counter() - self.began
        self.profile.stop()
        # A named range, such as a step of the optimizer, counts the pauses between its kernels too.
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self.profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        ]
        return covered(spans) / 1e6 / seconds if spans else None


def covered(spans):
    """Length of the union of spans `(start, end)`: kernels of several streams may run at once."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def training_flops_per_token(model):
    """Operations of a training step for each token, in the linear layers.

    2 for each weight forwards, 2 for the gradient of its input, 2 more for its own where it is trained (Kaplan et al.
    2020, section 2.1). What is computed twice, as with checkpointing, counts once; attention, embeddings and the
    language head are left out.
    """
    import torch

    from utils.models.parameters import parameter_count

    return sum(
        (6 if module.weight.requires_grad else 4) * parameter_count(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    )


# Starting scripts


def run(*words, launcher=()):
    """Run a script, through `accelerate launch` with some flags; its output goes into the log at once.

    Args:
        words: script and flags.
        launcher: flags of `accelerate launch`; none for a plain start.

    Returns:
        `(exit status, output)`.
    """
    process = start(*words, launcher=launcher)
    output = echo(process)
    return process.wait(), output


def run_to_the_end(*words, launcher=()):
    """As `run`; returns the output, and raises what the script says where it fails."""
    status, output = run(*words, launcher=launcher)
    if status:
        raise RuntimeError(f"{words[0]} ended with status {status}: {reason_of(output)}")
    return output


def start(*words, launcher=()):
    """Start a script; returns its process."""
    launch = ("-m", "accelerate.commands.launch", *launcher) if launcher else ()
    command = [sys.executable, *launch, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def echo(process, until=lambda line: False):
    """Print what a process says, to its end or to a line for which `until` is true; returns it."""
    said = []
    for line in process.stdout:
        print(line, end="", flush=True)
        said.append(line)
        if until(line):
            break
    return "".join(said)


def reason_of(output):
    """The line of a script's output that says most: our own error, or the last of a traceback."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    launchers = ("ChildFailedError", "CalledProcessError")  # they say that something failed, not what
    told = [line for line in lines if "rror: " in line and not any(name in line for name in launchers)]
    ours = [line for line in told if line.startswith("error: ")]
    return (ours[:1] or told[-1:] or lines[-1:] or ["it said nothing"])[0][:300]


def losses_of(run_folder):
    """Loss of each step, from a finished run."""
    log = read_json(Path(run_folder) / "trainer_state.json")["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def probabilities_of(run_folder):
    """Probabilities of the validation rows, from a finished run."""
    import pandas as pd

    table = pd.read_parquet(Path(run_folder) / "predictions" / "validation.parquet")
    return table[[name for name in table if name.startswith("probability/")]].to_numpy()


def compare_runs(run_folder, reference, tolerance):
    """`(figures, problems)`: whether two runs are the same training, step by step and in what they predict."""
    losses, expected = losses_of(run_folder), losses_of(reference)
    problems = []
    if len(losses) != len(expected):
        return {}, [f"there are {len(losses)} steps instead of {len(expected)}"]
    difference = max(abs(a - b) for a, b in zip(losses, expected))
    apart = float(abs(probabilities_of(run_folder) - probabilities_of(reference)).max())
    unchanged = read_json(Path(run_folder) / "all_results.json")["unchanged_tensors"]
    if not difference <= tolerance:
        problems.append(f"a loss is {difference:.2g} away from that of one undisturbed process")
    if not apart <= tolerance:
        problems.append(f"a probability is {apart:.2g} away from that of one undisturbed process")
    if unchanged:
        problems.append(f"{unchanged} tensors did not change")
    return {"steps": len(losses), "largest difference of a loss": difference, "of a probability": apart}, problems


def reference_flags(machine, folder, output_dir, micro_batch=8):
    """A short training of RoBERTa in fp32 with 8 rows a step, without dropout: the same however it is divided."""
    model = model_folder(machine, folder, "roberta-base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    flags = {"per_device_train_batch_size": micro_batch, "learning_rate": 2e-5 if machine.on_gpu else 1e-3}
    return [*stoppable_flags(model, output_dir, **flags), "--bf16", "False"]


def stoppable_flags(model, output_dir, **more):
    """A training of 30 steps that logs each of them."""
    return words_of(
        {
            "model_name_or_path": model,
            "train_file": SAMPLE / "train.csv",
            "validation_file": SAMPLE / "validation.csv",
            "max_eval_samples": 64,
            "output_dir": output_dir,
            "max_length": 128,
            "max_steps": 30,
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "report": False,
        }
        | more
    )


def reference_run(machine, folder):
    """The folder of the undisturbed run of one process; the first check to need it makes it."""
    target = folder / "reference"
    if not (target / "all_results.json").exists():
        machine.needs(gpu=3)
        run_to_the_end("run_classifier.py", *reference_flags(machine, folder, target))
    return target


def stop_and_resume(flags, target):
    """Begin a training, end it by SIGTERM after its first step, and give the same command again.

    Returns:
        the step of the checkpoint.
    """
    process = start("run_classifier.py", *flags)
    output = echo(process, until=lambda line: line.startswith("epoch ") and ": loss " in line)
    process.send_signal(signal.SIGTERM)
    output += echo(process)
    status = process.wait()
    if status != 128 + signal.SIGTERM:
        said = "it had ended before the signal" if status == 0 else reason_of(output)
        raise RuntimeError(f"the training ended with status {status} on SIGTERM, not 143: {said}")
    steps = [int(path.name.split("-")[1]) for path in Path(target).glob("checkpoint-*")]
    if "resuming from" not in run_to_the_end("run_classifier.py", *flags):
        raise RuntimeError("the second run began from the start")
    return max(steps)


# The checks


def qlora_head(machine, folder):
    """(1) QLoRA of 7B with the recipe's micro-batch."""
    machine.needs(gpu=5.5)
    model = model_folder(machine, folder, "qwen2.5-7b")
    flags = measured_flags(machine, model, long_rows(folder), folder / "qlora_head")
    words = ["--config", "recipes/qwen2.5_7b_qlora_head.yaml", *flags]
    figures, problems, _ = measure_training(machine, classifier_trainer, words)
    return figures, problems


def label_generation(machine, folder):
    """(2) QLoRA of a label generator with the recipe's micro-batch."""
    machine.needs(gpu=3)
    model = model_folder(machine, folder, "qwen3-0.6b")
    flags = measured_flags(machine, model, long_rows(folder), folder / "label_generation")
    words = ["--config", "recipes/qwen3_0.6b_qlora_labels.yaml", *flags]
    figures, problems, _ = measure_training(machine, generator_trainer, words)
    return figures, problems


def fp16_scaler(machine, folder):
    """(3) What a machine without bf16 does: an encoder in full and LoRA, in fp16, on the same 16 rows in each step."""
    if not machine.on_gpu:
        raise NotDone("fp16 training needs a GPU")
    machine.needs(gpu=6)
    figures, problems = {}, []
    for what, shape, flags in (
        ("RoBERTa in full", "roberta-base", {"learning_rate": 1e-4}),
        ("0.6B with LoRA", "qwen3-0.6b", {"use_peft": True, "learning_rate": 1e-3}),
    ):
        model = model_folder(machine, folder, shape)
        flags |= {"fp16": True, "bf16": False, "max_length": 128}
        flags |= {"per_device_train_batch_size": 16, "max_train_samples": 16}
        words = measured_flags(machine, model, SAMPLE / "train.csv", folder / f"fp16-{shape}", **flags)
        measured, wrong, trainer = measure_training(machine, classifier_trainer, words)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        third = len(losses) // 3
        if not statistics.mean(losses[-third:]) < statistics.mean(losses[:third]):
            wrong.append("the loss does not fall")
        scaler = trainer.accelerator.scaler
        if scaler is None:
            wrong.append("there is no gradient scaler")
        problems += [f"{what}: {problem}" for problem in wrong]
        kept = ("weights, products", "peak memory, GiB", "first loss", "last loss")
        figures |= {f"{what}: {name}": measured[name] for name in kept}
        figures[f"{what}: scale at the end"] = scaler.get_scale() if scaler else None
        del trainer, scaler
        gc.collect()  # models and trainers refer to each other
    return figures, problems


def fp16_weights_refused(machine, folder):
    """(4) The gradients of fp16 weights cannot be unscaled: such a training must not begin."""
    model = model_folder(machine, folder, "roberta-base")
    flags = stoppable_flags(model, folder / "fp16-weights", dtype="float16")
    if machine.on_gpu:
        flags += ["--fp16", "True", "--bf16", "False"]
    status, output = run("run_classifier.py", *flags)
    said = reason_of(output)
    refused = status == 2 and "float16" in said
    return {"exit status": status}, [] if refused else [f"not refused: status {status}, {said}"]


def paged_optimizer_resumes(machine, folder):
    """(5) The optimizer of the QLoRA recipes keeps its state over an interruption."""
    if not machine.on_gpu:
        raise NotDone("paged optimizers need a GPU")
    machine.needs(gpu=3)
    model = model_folder(machine, folder, "qwen3-0.6b")
    flags = {"use_peft": True, "load_in_4bit": True, "optim": "paged_adamw_8bit", "per_device_train_batch_size": 8}
    undisturbed, stopped = folder / "paged", folder / "paged-stopped"
    run_to_the_end("run_classifier.py", *stoppable_flags(model, undisturbed, **flags))
    step = stop_and_resume(stoppable_flags(model, stopped, **flags), stopped)
    figures, problems = compare_runs(stopped, undisturbed, SAME_LOSS_16_BIT)
    return {"stopped at step": step} | figures, problems


def same_as_cpu(machine, folder):
    """(6) A head and a label generator say the same on the GPU and on the CPU."""
    if not machine.on_gpu:
        raise NotDone("there is no GPU to compare the CPU with")
    machine.needs(gpu=3)
    return compare_devices(machine, folder, "cuda")


def compare_devices(machine, folder, device):
    """`(figures, problems)`: probabilities on a device in fp32 and 16 bit, against those of the CPU in fp32."""
    import torch

    from utils.core.arguments import GenerationArguments, GeneratorModelArguments, ModelArguments
    from utils.core.processes import this_process
    from utils.models.classifier import Classifier
    from utils.models.generator.generator import LabelGenerator

    def predict(approach, where, dtype):
        this_process().device = torch.device(where)
        approach.model.to(where).eval()
        approach.compute_dtype = dtype
        return approach.predict(texts, 64).probabilities

    # With 4 labels all 16 answers are scored; with more the search may end after others on another device.
    texts, task = sample_task(ROWS, ["anger", "fear", "joy", "sadness"])
    torch.manual_seed(0)
    encoder = ModelArguments(model_name_or_path=model_folder(machine, folder, "roberta-base"), dtype="float32")
    # Four layers of the decoder: the CPU computes it too.
    decoder = model_folder(machine, folder, "qwen3-0.6b", **({"num_hidden_layers": 4} if machine.on_gpu else {}))
    decoder_args = GeneratorModelArguments(model_name_or_path=decoder, dtype="float32")
    asked = GenerationArguments(coverage=1.0, max_nodes=16)
    half = torch.bfloat16 if machine.bf16 else torch.float16
    figures, problems = {"rows": len(texts)}, []
    for name, make in (
        ("RoBERTa with a head", lambda: Classifier.new(encoder, task, 128)),
        ("0.6B label generator, 4 layers", lambda: LabelGenerator.new(decoder_args, asked, task, 256)),
    ):
        approach = make()
        expected = predict(approach, "cpu", torch.float32)
        apart = abs(predict(approach, device, torch.float32) - expected).max()
        figures[f"{name}: fp32"] = float(apart)
        figures[f"{name}: {str(half)[6:]}"] = float(abs(predict(approach, device, half) - expected).max())
        if not apart <= SAME_PROBABILITIES:
            problems.append(f"{name}: a probability is {apart:.2g} away from the CPU's")
    return figures, problems


def sample_task(rows, labels=None):
    """`(texts, task)`: the first texts of the sample data, and its labels."""
    from utils.core.arguments import DataArguments
    from utils.data.examples import read_training_data

    files = {"train_file": str(SAMPLE / "train.csv"), "validation_file": str(SAMPLE / "validation.csv")}
    train, _, task = read_training_data(DataArguments(**files, label_columns=labels), 42)
    return train.texts[:rows], task


def label_scoring(machine, folder):
    """(7) Decoding over valid answers and scoring labels, against `generate` of as many tokens."""
    import numpy as np
    import torch

    from utils.core.arguments import GenerationArguments, GeneratorModelArguments
    from utils.models.approaches import place
    from utils.models.generator.generator import LabelGenerator
    from utils.models.generator.search import decode_freely, score_labels

    machine.needs(gpu=4)
    texts, task = sample_task(ROWS if machine.on_gpu else 20)
    dtype = machine.matmul_dtype
    model_args = GeneratorModelArguments(
        model_name_or_path=model_folder(machine, folder, "qwen3-0.6b"),
        dtype="float32" if dtype == "float16" else dtype,  # 16-bit numbers without bf16 are those of autocast
    )
    generator = LabelGenerator.new(model_args, GenerationArguments(), task, 256)
    model, form, tokenizer = place(generator.model).eval(), generator.form, generator.tokenizer
    rows = sorted((ids[: form.budget] for ids in generator.tokenize(texts)), key=len, reverse=True)

    def score(some, coverage):
        return score_labels(
            model, form.tree, form.prompt, some, tokenizer.pad_token_id, 64, coverage, form.generation.max_nodes
        )

    figures = {"rows": len(rows), "weights, products": f"{model_args.dtype}, {dtype}"}
    with torch.autocast(machine.device, getattr(torch, dtype), enabled=dtype != "float32"):
        decoded = score(rows, 0.0).decoded
        # Random weights never end an answer: `generate` is stopped after as many tokens as the valid answers have.
        length = round(np.mean([len(form.answers.write(row)) for row in decoded]))
        ways = {
            "generate": lambda some: decode_freely(model, tokenizer, form.prompt, some, 64, length),
            "decoding": lambda some: score(some, 0.0),
            "scoring": lambda some: score(some, 0.99),
        }
        for name, way in ways.items():
            way(rows[:4])  # warm up
            started = time.perf_counter()
            answers = way(rows)
            figures[f"{name}, rows/s"] = len(rows) / (time.perf_counter() - started)
            if machine.on_gpu:
                profile = GpuProfile()
                way(rows[:64])
                figures[f"{name}, share of time the GPU is busy"] = profile.stop()
    figures |= {"tokens of an answer": length, "probability reached by scoring": float(answers.covered.mean())}
    problems = []
    given = answers.probabilities
    if not (np.isfinite(given).all() and given.min() >= 0 and given.max() <= 1 + 1e-6):
        problems.append("there are probabilities that are none")
    if machine.on_gpu and figures["decoding, rows/s"] < figures["generate, rows/s"]:
        problems.append("decoding is slower than generate")
    return figures, problems


def encoder(machine, folder):
    """(8) RoBERTa in full: speed, and probabilities that do not depend on the batch."""
    import torch

    from utils.models.classifier import Classifier

    machine.needs(gpu=4)
    model = model_folder(machine, folder, "roberta-base")
    flags = {"per_device_train_batch_size": 32 if machine.on_gpu else 8, "learning_rate": 2e-5, "max_length": 128}
    words = measured_flags(machine, model, SAMPLE / "train.csv", folder / "encoder", **flags)
    figures, problems, trainer = measure_training(machine, classifier_trainer, words)
    texts, task = sample_task(520)
    model_args = parse("run_classifier", words)[0]
    # Without the autocast that the training has put around its forward pass.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    classifier = Classifier(model, trainer.processing_class, model_args, task, 128)
    trained = getattr(torch, trainer.args.compute_dtype)
    classifier.compute_dtype = trained
    classifier.predict(texts, 128)  # warm up
    started = time.perf_counter()
    classifier.predict(texts, 128)
    figures["prediction, rows/s"] = len(texts) / (time.perf_counter() - started)
    few = texts[: ROWS if machine.on_gpu else 40]
    for dtype in dict.fromkeys([torch.float32, trained]):
        classifier.compute_dtype = dtype
        one, many = (classifier.predict(few, size).probabilities for size in (1, 128))
        apart = float(abs(one - many).max())
        figures[f"batches of 1 and 128 differ, {str(dtype)[6:]}"] = apart
        if dtype == torch.float32 and not apart <= SAME_PROBABILITIES:
            problems.append(f"a probability is {apart:.2g} away in another batch")
    return figures, problems


def merging(machine, folder):
    """(9) QLoRA of 7B with --merge_adapter: on the host, in memory for one copy and a layer; the GPU takes no more."""
    import run_classifier
    from benchmarks.random_models import bytes_of_model

    whole, layer = bytes_of_model("qwen2.5-7b", toy=not machine.on_gpu)
    machine.needs(gpu=5.5, host=(whole + layer) / GIB + 3)
    model = model_folder(machine, folder, "qwen2.5-7b")
    machine.needs(disk=whole / GIB + 2, folder=folder)
    target = folder / "merging"
    more = {"max_steps": 2, "per_device_train_batch_size": 1, "merge_adapter": True, "report": False}
    more |= {"max_train_samples": 64}
    flags = measured_flags(machine, model, SAMPLE / "train.csv", target, **more)
    watch = MemoryWatch(target / "all_results.json", machine.on_gpu)
    try:
        run_classifier.main(["--config", "recipes/qwen2.5_7b_qlora_head.yaml", *flags])
    finally:
        watch.stop()
    merged = sum(path.stat().st_size for path in (target / "merged").glob("*.safetensors"))
    figures = {
        "merged model, GiB": merged / GIB,
        "one layer, GiB": layer / GIB,
        "host memory before merging, GiB": watch.before / GIB,
        "host memory that merging adds, GiB": (watch.peak - watch.before) / GIB,
        "GPU memory before merging, GiB": watch.gpu_before / GIB if machine.on_gpu else None,
        "GPU memory at most, GiB": watch.gpu_peak / GIB if machine.on_gpu else None,
    }
    problems = []
    if merged < whole:
        problems.append(f"the merged model has {merged:,} bytes, not {whole:,}")
    if machine.on_gpu and watch.peak - watch.before > whole + layer + GIB:
        problems.append("merging takes more host memory than one copy and a layer")
    if machine.on_gpu and watch.gpu_peak > watch.gpu_before:
        problems.append("merging takes more GPU memory than training")
    shutil.rmtree(target / "merged")  # the disk may be small
    return figures, problems


class MemoryWatch:
    """Looks at this process's memory while it goes on: at what it is when a file appears, and at the most after that.

    Host memory is what the process has itself; pages of files that it reads can be taken back.
    """

    def __init__(self, file, on_gpu):
        self.file, self.on_gpu, self.running = file, on_gpu, True
        self.before = self.peak = self.gpu_before = self.gpu_peak = 0
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while self.running:
            if self.before or self.file.exists():
                now = own_memory()
                if not self.before:
                    self.before, self.gpu_before = now, self._gpu_peak()
                self.peak = max(self.peak, now)
            time.sleep(0.02)

    def _gpu_peak(self):
        import torch

        return torch.cuda.max_memory_allocated() if self.on_gpu else 0

    def stop(self):
        self.running = False
        self.thread.join()
        self.gpu_peak = self._gpu_peak()


def own_memory():
    """Bytes of memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0


def launched_alone(machine, folder, config):
    """Train through a configuration with one process, and compare with a plain start."""
    if not machine.on_gpu:
        raise NotDone("accelerate shards on GPUs only")
    reference = reference_run(machine, folder)
    target = folder / config
    launcher = ("--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", "1")
    run_to_the_end("run_classifier.py", *reference_flags(machine, folder, target), launcher=launcher)
    return compare_runs(target, reference, SAME_LOSS_FP32)


def fsdp2_alone(machine, folder):
    """(10) FSDP2 with one process."""
    return launched_alone(machine, folder, "fsdp2")


def zero_alone(machine, folder):
    """(10) ZeRO-2 and ZeRO-3 with one process."""
    if machine.on_gpu and find_spec("deepspeed") is None:
        raise NotDone("DeepSpeed is not installed: pip install -r requirements-deepspeed.txt")
    figures, problems = {}, []
    for config in ("deepspeed_zero2", "deepspeed_zero3"):
        of_this, wrong = launched_alone(machine, folder, config)
        stage = f"ZeRO-{config[-1]}"
        figures |= {f"{stage}: {name}": value for name, value in of_this.items()}
        problems += [f"{stage}: {problem}" for problem in wrong]
    return figures, problems


def two_processes(machine, folder):
    """(11) Two processes with half the batch each. On one GPU they talk through gloo: NCCL wants a GPU for each."""
    machine.needs(gpu=6)
    reference = reference_run(machine, folder)
    target = folder / "two-processes"
    flags = reference_flags(machine, folder, target, micro_batch=4)
    config = "multi_gpu" if machine.on_gpu else "cpu_2_processes"
    launcher = ("--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", "2")
    more = ["--ddp_backend", "gloo"] if machine.on_gpu else []
    run_to_the_end("run_classifier.py", *flags, *more, launcher=launcher)
    return compare_runs(target, reference, SAME_LOSS_FP32)


def sigterm_resumes(machine, folder):
    """(12) SIGTERM saves a checkpoint; the same command goes on from it to the same result."""
    reference = reference_run(machine, folder)
    target = folder / "stopped"
    step = stop_and_resume(reference_flags(machine, folder, target), target)
    figures, problems = compare_runs(target, reference, SAME_LOSS_FP32)
    return {"stopped at step": step} | figures, problems


# One check in this process


def finite(value):
    """A figure as JSON has it: numbers that are none become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main():
    """Run one check, or describe the machine, and write the answer."""
    name, machine, folder, answer = sys.argv[1:]
    if name == "describe_machine":
        write_json(answer, asdict(describe_machine(machine)))
        return
    outcome = {"result": "fail", "why": "", "figures": {}}
    try:
        figures, problems = globals()[name](Machine(**read_json(machine)), Path(folder))
        outcome["figures"] = {key: finite(value) for key, value in figures.items()}
        outcome |= {"result": "fail" if problems else "pass", "why": "; ".join(problems)}
    except NotDone as reason:
        outcome |= {"result": "not done", "why": str(reason)}
    except SystemExit as end:
        outcome["why"] = f"the script ended with status {end.code}, see the log"
    except Exception as error:
        traceback.print_exc()
        outcome["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    write_json(answer, outcome)
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
