"""The approaches, and which of them a finished run is.

An approach is a class that turns texts into probabilities of labels: `Classifier` and `LabelGenerator` have the same
methods, which CONTRIBUTING.md lists. A further approach is a module with such a class, a script, and a row here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from utils.core.arguments import ModelArguments
from utils.data.task import Task

if TYPE_CHECKING:  # loading these takes torch
    import datasets
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.data.examples import Examples
    from utils.scoring.predictions import Predictions

ADAPTER_FILE = "adapter_config.json"
# In the folder of an adapter on the embedded model: that model.
BASE_FOLDER = "base_model"
# By the script that has trained a run: what a person calls the approach, and its class, which takes torch to load.
APPROACHES = {
    "run_classifier.py": ("head", "utils.models.classifier:Classifier"),
    "run_sft_labels.py": ("label generation", "utils.models.generator.generator:LabelGenerator"),
}


class Approach(Protocol):
    """What each approach provides; the classes themselves say more. No class inherits from this."""

    model_arguments: ClassVar[type[ModelArguments]]  # its flags on which model to load
    files: ClassVar[tuple[str, ...]]  # what a prediction needs from a run's folder besides weights
    name: str  # of the model or run, for messages
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    model_args: ModelArguments
    task: Task
    max_length: int  # tokens that the model sees of a row
    compute_dtype: torch.dtype  # of matrix products in `predict`

    @classmethod
    def load(cls, folder: str, arguments: dict[str, Any], task: Task) -> Approach:
        """The model of a finished run.

        Args:
            folder: of the run.
            arguments: its run_args.json.
            task: its task.json.
        """

    def encode(self, examples: Examples) -> datasets.Dataset:
        """Tokens of examples as the trainer takes them, with `length` and `full_length`."""

    def collator(self, on_gpu: bool) -> Callable:
        """What makes a batch of encoded rows."""

    def predict(self, texts: list[str], batch_size: int) -> Predictions:
        """Probabilities for texts, in their order, the same in all processes."""

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than the model reads."""

    def check(self) -> None:
        """Refuse, with a `UserError`, a model that would not train as it must."""

    def preflight_rows(self) -> list[list[str]]:
        """What the preflight says of this approach: names and texts."""

    def as_text(self, row: np.ndarray) -> str:
        """The labels of a 0/1 row `[L]` as this approach writes them."""

    def save(self, folder: str | Path) -> None:
        """Write what a prediction needs besides what Trainer saves."""

    def merge(self, adapter_folder: str | Path, merged_folder: str | Path, dtype: str | None = None) -> None:
        """Write a plain model with an adapter merged in.

        Args:
            adapter_folder: where the adapter is.
            merged_folder: where the model is saved.
            dtype: of its weights; left out: 16 bit, as fits the training.
        """

    @staticmethod
    def card_facts(folder: str | Path, arguments: dict[str, Any], task: Task) -> dict[str, Any]:
        """What the model card says of this approach, for `model_card.md.jinja`.

        Args:
            folder: of the run.
            arguments: its run_args.json.
            task: its task.json.
        """


def approach_of(arguments: dict[str, Any]) -> type[Approach]:
    """The class of a finished run, from its run_args.json; of one that export.py has made, what predicts with that.

    Raises:
        KeyError: for arguments that name no script of this project.
    """
    if arguments.get("exported"):
        return pkgutil.resolve_name("utils.models.onnx:OnnxClassifier")
    return pkgutil.resolve_name(APPROACHES[arguments["script"]][1])


def describe_approach(arguments: dict[str, Any]) -> str:
    """How a run was made, from its run_args.json: `head, LoRA`, `label generation, QLoRA`, ..."""
    what, _ = APPROACHES[arguments["script"]]
    if arguments.get("ask_labels"):
        what = "questions"
    if arguments.get("eval_only"):
        return f"{what}, zero-shot"
    if not arguments.get("use_peft"):
        return f"{what}, full"
    kind = "DoRA" if arguments.get("use_dora") else "LoRA"
    if arguments.get("load_in_4bit"):
        return f"{what}, Q{kind}"
    return f"{what}, {kind}, 8 bit" if arguments.get("load_in_8bit") else f"{what}, {kind}"


def finished_model_args(
    kind: type[ModelArguments], folder: str | Path, arguments: dict[str, Any]
) -> tuple[ModelArguments, bool]:
    """How to load the model of a finished run.

    Args:
        kind: the approach's dataclass.
        folder: of the run.
        arguments: its run_args.json.

    Returns:
        `(model arguments, whether the folder holds an adapter)`; the arguments name the base model for an adapter and
        for a model that was scored as it is, else the folder.
    """
    # A run of an earlier version lacks what there was not then; the defaults do as was done before.
    model_args = kind(**{f.name: arguments[f.name] for f in fields(kind) if f.init and f.name in arguments})
    if "/" in str(model_args.attn_implementation):  # a kernel of the Hub is code, which no run chooses
        model_args.attn_implementation = None
    adapted = (Path(folder) / ADAPTER_FILE).exists()
    if not adapted and not arguments.get("eval_only"):
        model_args.model_name_or_path, model_args.dtype = str(folder), "float32"
        model_args.trust_remote_code = False  # the run would have brought the code
    return model_args, adapted


def place(model: PreTrainedModel) -> PreTrainedModel:
    """Put a model on the device of this process; bitsandbytes has put quantised weights there already."""
    from utils.core.processes import this_process  # loads torch

    return model if getattr(model, "is_quantized", False) else model.to(this_process().device)
