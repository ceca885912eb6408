"""Load finished runs and predict: shared by everything that works with trained models."""

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from scipy.special import expit

from utils.arguments import ModelArguments
from utils.columns import read_ids, read_texts
from utils.encoding import collator, encode, length_limit, longest_first
from utils.errors import UserError
from utils.models import load_adapter, load_classifier, load_tokenizer
from utils.run_folder import ADAPTER_FILE, ARGUMENTS_FILE, load_task, read_json
from utils.task import Task
from utils.training import ClassifierTrainingArguments, MultiLabelTrainer


@dataclass
class Run:
    """A finished run, loaded."""

    folder: str
    task: Task
    model: object
    tokenizer: object
    bf16: bool  # whether it was trained, and its thresholds chosen, with products in bf16


def load_run(folder):
    """Load the model, tokenizer and task of a finished run.

    Raises:
        UserError: for a folder that is no finished run, or whose model cannot be loaded.
    """
    task = load_task(folder)
    arguments = read_json(Path(folder) / ARGUMENTS_FILE)
    model_args = ModelArguments(**{field.name: arguments[field.name] for field in fields(ModelArguments)})
    if not (Path(folder) / "tokenizer_config.json").exists():  # without it transformers makes an empty tokenizer
        raise UserError(f"{folder} has lost its tokenizer: train it anew, or put its tokenizer files back")
    tokenizer = load_tokenizer(str(folder))
    if (Path(folder) / ADAPTER_FILE).exists():
        model = load_adapter(model_args, task.labels, tokenizer, folder)
    else:
        model_args.model_name_or_path, model_args.dtype = str(folder), "float32"
        model = load_classifier(model_args, task.labels, tokenizer, new_head=False)
    return Run(str(folder), task, model, tokenizer, arguments["bf16"])


def predict_probabilities(trainer, encoded):
    """Probabilities `[N, L]` of encoded rows, in their order, whatever the number of processes."""
    order = longest_first(encoded)
    logits = trainer.predict(encoded.select(order)).predictions
    probabilities = np.empty(logits.shape, dtype=float)
    probabilities[order] = expit(logits.astype(float))
    return probabilities


def predict_table(run, table, batch_size):
    """Probabilities `[N, L]` of a run for the rows of a table, `batch_size` rows at a time in each process.

    Raises:
        UserError: for rows that cannot be read, or a probability that is not a number.
    """
    ids = read_ids(table, run.task)
    limit = length_limit(run.task.max_length, run.tokenizer, run.model.config)
    with tempfile.TemporaryDirectory() as unused:  # Trainer insists on a folder to write to
        training_args = ClassifierTrainingArguments(
            output_dir=unused,
            per_device_eval_batch_size=batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            bf16=None if run.bf16 else False,
        )
        # Not before the arguments: they tell accelerate whether to use the CPU.
        with PartialState().main_process_first():
            encoded = encode(Dataset.from_dict({"text": read_texts(table, run.task)}), run.tokenizer, limit)
        trainer = MultiLabelTrainer(
            model=run.model, args=training_args, data_collator=collator(run.tokenizer, not training_args.use_cpu)
        )
        probabilities = predict_probabilities(trainer, encoded)
    bad = np.flatnonzero(np.isnan(probabilities).any(axis=1))
    if len(bad):
        raise UserError(
            f'{run.folder} gives a probability that is NaN for {len(bad)} rows, the first with id "{ids[bad[0]]}": '
            "its weights are broken, train it anew"
        )
    return probabilities
