"""The checks of benchmarks/gpu_check.py, which runs each in a process of its own:

    python -m benchmarks.gpu_checks FUNCTION MACHINE.json FOLDER ANSWER.json

A check gets the machine and a folder that all checks share, and returns its figures, and what is wrong in words:
nothing where it passes. It raises `NotDone` where the machine cannot do it. What it prints goes into its log. On a CPU
the models are toys: what is right can be seen there, but memory and speed say nothing. **Nothing here has been run on a
GPU yet.**
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import statistics
import sys
import time
import traceback
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_machine import GIB, Machine, MemoryWatch, NotDone, describe_machine
from benchmarks.gpu_trainings import (
    SAMPLE,
    GpuProfile,
    classifier_trainer,
    compare_runs,
    generator_trainer,
    long_rows,
    measure_training,
    measured_flags,
    model_folder,
    parse,
    reason_of,
    reference_flags,
    reference_run,
    run,
    run_to_the_end,
    stop_and_resume,
    stoppable_flags,
)
from utils.core.files import read_json, write_json

# What counts as the same: figures of one training on other processes, devices or after an interruption.
SAME_LOSS_FP32, SAME_LOSS_16_BIT = 1e-3, 1e-2
SAME_PROBABILITIES = 1e-4
ROWS = 200  # whose probabilities are compared

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


# The checks


def with_recipe(machine, folder, shape, recipe, make, target):
    """Train a random model in a real shape as a recipe says, and measure it."""
    flags = measured_flags(machine, model_folder(machine, folder, shape), long_rows(folder), target)
    figures, problems, _ = measure_training(machine, make, ["--config", f"recipes/{recipe}.yaml", *flags])
    return figures, problems


def qlora_head(machine, folder):
    """(1) QLoRA of 7B with the recipe's micro-batch."""
    machine.needs(gpu=5.5)
    target = folder / "qlora_head"
    return with_recipe(machine, folder, "qwen2.5-7b", "qwen2.5_7b_qlora_head", classifier_trainer, target)


def label_generation(machine, folder):
    """(2) QLoRA of a label generator with the recipe's micro-batch."""
    machine.needs(gpu=3)
    target = folder / "label_generation"
    return with_recipe(machine, folder, "qwen3-0.6b", "qwen3_0.6b_qlora_labels", generator_trainer, target)


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
    from utils.data.training_data import read_training_data

    files = {"train_file": str(SAMPLE / "train.csv"), "validation_file": str(SAMPLE / "validation.csv")}
    train, _, task = read_training_data(DataArguments(**files, label_columns=labels), 42)
    return train.texts[:rows], task


def label_scoring(machine, folder):
    """(7) Decoding over valid answers and scoring labels, against `generate` of as many tokens."""
    import numpy as np
    import torch

    from utils.core.arguments import GenerationArguments, GeneratorModelArguments
    from utils.models.approaches import place
    from utils.models.generator.free import decode_freely
    from utils.models.generator.generator import LabelGenerator
    from utils.models.generator.search import score_labels

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
