"""The tools that are compared: the commands of each, as its users run it, and how its predictions are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peers.material import PROMPT, ROOT, Material
from utils.scoring.predictions import Predictions

PROGRAMS = Path(__file__).parent / "programs"
WATCHED = ROOT / "benchmarks/watched.py"
TRAINER = "transformers:Trainer.train"


@dataclass
class Settings:
    """What all tools are told alike.

    Args:
        epochs: passes over the training rows.
        batch_size: rows of a training step.
        learning_rate: of the encoders.
        generator_learning_rate: of the label generators.
        seed: of the training.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    generator_learning_rate: float
    seed: int


@dataclass
class Command:
    """One process of a way.

    Args:
        words: a program or module, and its arguments.
        train: the function whose calls are the training; left out: it does not train.
        predict: the same for the prediction.
    """

    words: list[str]
    train: str | None = None
    predict: str | None = None

    @property
    def parts(self) -> list[str]:
        """What `benchmarks/watched.py` is to time."""
        return [f"{part}={name}" for part in ("train", "predict") if (name := getattr(self, part))]


@dataclass
class Way:
    """A tool and how it is used.

    Args:
        commands: its processes, given what it works on, the settings, and a folder of its own.
        read: its predictions of the held-out rows from that folder: probabilities `[N, L]`, or 0/1 where it gives
            labels alone.
        is_ours: whether it runs in the project's environment, not in that of the peers.
        gives_labels_alone: whether it has no probabilities to choose thresholds for.
        answers: labels given without a threshold, beside the probabilities, from the same folder.
    """

    commands: Callable[[Material, Settings, Path], list[Command]]
    read: Callable[[Material, Path], np.ndarray]
    is_ours: bool = False
    gives_labels_alone: bool = False
    answers: Callable[[Material, Path], np.ndarray] | None = None


def write_settings(material: Material, settings: Settings, folder: Path, **more: Any) -> str:
    """The file that a program of `programs/` reads."""
    content = settings.__dict__ | {
        "model": material.encoder,
        "label_names": material.task.labels,
        "train": str(material.folder / "train.json"),
        "validation": str(material.folder / "validation.json"),
        "folder": str(folder / "run"),
        "output": str(folder / "predicted.npy"),
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(content | more))
    return str(path)


def program(name: str, train: str, predict: str) -> Way:
    """A way that is one of `programs/`.

    Args:
        name: of its file.
        train: function of the tool that trains.
        predict: function of the tool that predicts.
    """

    def commands(material: Material, settings: Settings, folder: Path) -> list[Command]:
        return [Command([str(PROGRAMS / name), write_settings(material, settings, folder)], train, predict)]

    return Way(commands, lambda material, folder: np.load(folder / "predicted.npy"))


def trl_commands(material: Material, settings: Settings, folder: Path) -> list[Command]:
    """TRL's script, then `generate`."""
    train = [
        *("trl.scripts.sft", "--model_name_or_path", material.generator, "--output_dir", str(folder / "run")),
        *("--dataset_name", str(material.folder / "conversations"), "--max_length", "160", "--dtype", "float32"),
        *("--num_train_epochs", str(settings.epochs), "--per_device_train_batch_size", str(settings.batch_size)),
        *("--learning_rate", str(settings.generator_learning_rate), "--seed", str(settings.seed)),
        *("--warmup_steps", "0.1", "--weight_decay", "0.01", "--bf16", "False", "--report_to", "none"),
    ]
    output = str(folder / "answers.json")
    generate = [str(PROGRAMS / "generate_labels.py"), write_settings(material, settings, folder, output=output)]
    return [Command(train, TRAINER), Command(generate, predict="transformers:GenerationMixin.generate")]


def read_trl(material: Material, folder: Path) -> np.ndarray:
    """Labels of its answers."""
    answers = json.loads((folder / "answers.json").read_text())
    return np.array([material.label_text.read(answer)[0] for answer in answers])


def ours_commands(script: str, predict: str, flags: Callable[[Material, Settings], list[str]]):
    """A training script of this project, then make_submission.py.

    Args:
        script: name of the training script.
        predict: the method of its approach that predicts.
        flags: of the training, besides files, epochs, batch and seed.
    """

    def commands(material: Material, settings: Settings, folder: Path) -> list[Command]:
        run, validation = str(folder / "run"), str(material.folder / "validation.csv")
        train = [
            *(str(ROOT / script), "--train_file", str(material.folder / "train.csv"), "--validation_file", validation),
            *("--output_dir", run, "--num_train_epochs", str(settings.epochs), "--seed", str(settings.seed)),
            *("--per_device_train_batch_size", str(settings.batch_size), "--eval_strategy", "no"),
            *flags(material, settings),
        ]
        submit = [
            *(str(ROOT / "make_submission.py"), "--model", run, "--test_file", validation),
            *("--output_file", str(folder / "submission.csv")),
            *("--probabilities_file", str(folder / "probabilities.parquet")),
        ]
        return [Command(train, TRAINER), Command(submit, predict=predict)]

    return commands


def classifier_flags(material: Material, settings: Settings) -> list[str]:
    """Flags of run_classifier.py."""
    model = ["--model_name_or_path", material.encoder, "--learning_rate", str(settings.learning_rate)]
    return ["--config", str(ROOT / "recipes/minilm_cpu.yaml"), *model]


def generator_flags(material: Material, settings: Settings) -> list[str]:
    """Flags of run_sft_labels.py."""
    model = ["--model_name_or_path", material.generator, "--learning_rate", str(settings.generator_learning_rate)]
    recipe = ["--config", str(ROOT / "recipes/minilm_labels_cpu.yaml"), "--prompt_template", str(ROOT / PROMPT)]
    return [*recipe, *model]


def answers_alone_flags(material: Material, settings: Settings) -> list[str]:
    """Flags of run_sft_labels.py where probabilities are not wanted."""
    return [*generator_flags(material, settings), "--coverage", "0"]


def read_ours(material: Material, folder: Path) -> np.ndarray:
    """Probabilities that make_submission.py has written."""
    return pd.read_parquet(folder / "probabilities.parquet")[material.task.labels].to_numpy()


def read_our_answers(material: Material, folder: Path) -> np.ndarray:
    """Answers of a label generator to the held-out rows, as its run has kept them."""
    return Predictions.load(folder / "run", material.task.labels).decoded


GENERATOR = "utils.models.generator.generator:LabelGenerator.predict"
WAYS = {
    "scikit-learn, TF-IDF": program(
        "train_tfidf.py", "sklearn.pipeline:Pipeline.fit", "sklearn.pipeline:Pipeline.predict_proba"
    ),
    "transformers, stock Trainer": program("train_stock_trainer.py", TRAINER, "transformers:Trainer.predict"),
    "simpletransformers": program(
        "train_simpletransformers.py",
        "simpletransformers.classification:MultiLabelClassificationModel.train_model",
        "simpletransformers.classification:MultiLabelClassificationModel.predict",
    ),
    "SetFit": program("train_setfit.py", "setfit:Trainer.train", "setfit:SetFitModel.predict_proba"),
    "run_classifier.py": Way(
        ours_commands("run_classifier.py", "utils.models.classifier:Classifier.predict", classifier_flags),
        read_ours,
        is_ours=True,
    ),
    "TRL sft.py, generate": Way(trl_commands, read_trl, gives_labels_alone=True),
    "run_sft_labels.py, answers": Way(
        ours_commands("run_sft_labels.py", GENERATOR, answers_alone_flags),
        read_our_answers,
        is_ours=True,
        gives_labels_alone=True,
    ),
    "run_sft_labels.py, probabilities": Way(
        ours_commands("run_sft_labels.py", GENERATOR, generator_flags), read_ours, is_ours=True
    ),
}


class Failed(Exception):
    """A tool that does not run, with the last line of what it printed."""


def run(way: Way, material: Material, settings: Settings, folder: Path, python: str, threads: int) -> dict[str, float]:
    """Run the processes of a way, each with an empty cache, and measure them.

    Args:
        way: the tool.
        material: what it works on.
        settings: what it is told.
        folder: an empty one for what it writes.
        python: interpreter of the peers' environment.
        threads: of each process.

    Returns:
        seconds of the `train` and `predict` calls, those until the `first_step` (from the start of the process to the
        end of the first step of an optimizer, or to the beginning of the training where there is none) and of `all`
        processes, by the clock and, with `_cpu` behind, CPU seconds; and `peak_mib` of the process that took most.

    Raises:
        Failed: for a process that ends with an error.
    """
    figures = {"all": 0.0, "all_cpu": 0.0, "peak_mib": 0.0}
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "CUDA_VISIBLE_DEVICES": "",
        **({"PYTHONPATH": str(ROOT)} if way.is_ours else {}),
    }
    for number, command in enumerate(way.commands(material, settings, folder)):
        notes_file = folder / f"notes-{number}.json"
        began = time.time()
        done = subprocess.run(
            [
                *(sys.executable if way.is_ours else python, str(WATCHED), str(notes_file)),
                *(*command.parts, "--", *command.words),
            ],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        figures["all"] += time.time() - began
        if done.returncode:
            raise Failed(next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "no output"))
        notes = json.loads(notes_file.read_text())
        figures["all_cpu"] += notes["cpu_seconds"]
        figures["peak_mib"] = max(figures["peak_mib"], notes["peak_mib"])
        if "train" in notes:
            first = notes.get("first_step", notes["train"])
            figures |= {"first_step": first["at"] - began, "first_step_cpu": first["cpu_at"]}
        for part in ("train", "predict"):
            if part in notes:
                figures |= {part: notes[part]["seconds"], f"{part}_cpu": notes[part]["cpu_seconds"]}
    return figures
