"""Trainings for benchmarks/gpu_checks.py: random models and rows, measured in this process or started as scripts."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_machine import GIB
from utils.core.files import read_json

SAMPLE = Path("sample_data")
MEMORY_TOLERANCE = 0.15  # of preflight's estimate


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
    model_args, *_, threshold_args, run_args, training_args = parsed
    Experiment(f"{script}.py", model_args, threshold_args, run_args, training_args)
    return parsed


def classifier_trainer(words):
    """`(trainer, preflight)` as run_classifier.py has them for a command line."""
    import transformers

    from utils.data.training_data import read_training_data
    from utils.models.classifier import Classifier
    from utils.training.classifier import MultiLabelTrainer, make_loss
    from utils.training.preflight import Preflight

    model_args, data_args, question_args, loss_args, _, _, training_args = parse("run_classifier", words)
    train, validation, task = read_training_data(data_args, training_args.seed)
    transformers.set_seed(training_args.seed)
    classifier = Classifier.new(model_args, task, data_args.max_length, question_args)
    train_tokens, validation_tokens = classifier.encode(train), classifier.encode(validation)
    loss_args.suit(task.single_label, task.soft_labels)
    loss = make_loss(loss_args, train.labels, train.weights)
    preflight = Preflight(classifier, train_tokens, training_args, train, loss.pos_weight.numpy())
    return MultiLabelTrainer(classifier, training_args, train_tokens, validation_tokens, loss), preflight


def generator_trainer(words):
    """`(trainer, preflight)` as run_sft_labels.py has them for a command line."""
    import transformers

    from utils.data.training_data import read_training_data
    from utils.models.generator.generator import LabelGenerator
    from utils.training.generator import LabelTrainer
    from utils.training.preflight import Preflight

    model_args, data_args, generation_args, _, _, training_args = parse("run_sft_labels", words)
    train, validation, task = read_training_data(data_args, training_args.seed)
    transformers.set_seed(training_args.seed)
    generator = LabelGenerator.new(model_args, generation_args, task, data_args.max_length)
    train_tokens, validation_tokens = generator.encode(train), generator.encode(validation)
    preflight = Preflight(generator, train_tokens, training_args, train)
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
    from utils.core.arguments import RunArguments
    from utils.training.loop import train_to_the_end
    from utils.training.memory import RESERVED_ON_GPU

    trainer, preflight = make(words)
    print(preflight.summary(), flush=True)
    estimate = preflight.memory.total
    machine.needs(gpu=(estimate + RESERVED_ON_GPU) / GIB)
    clock = make_clock(machine.on_gpu)
    trainer.add_callback(clock)
    metrics = train_to_the_end(trainer, None, RunArguments())
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
