"""Load finished runs and predict: shared by everything that works with trained models."""

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from scipy.special import expit

from utils.arguments import GeneratorModelArguments, ModelArguments
from utils.columns import read_ids, read_texts
from utils.encoding import collator, encode, length_limit, longest_first
from utils.errors import UserError
from utils.label_generator import GENERATION_FILE, Generation, LabelGenerator, build_generator, predict_labels
from utils.models import load_adapter, load_classifier, load_generator, load_tokenizer
from utils.prompts import text_ids
from utils.run_folder import ADAPTER_FILE, ARGUMENTS_FILE, load_task, read_json
from utils.task import Task
from utils.training import MultiLabelTrainer, TaskTrainingArguments


@dataclass
class Run:
    """A finished run, loaded."""

    folder: str
    task: Task
    model: object
    tokenizer: object
    bf16: bool  # whether it was trained, and its thresholds chosen, with products in bf16
    generator: LabelGenerator | None = None  # None: it has a classification head


def load_run(folder):
    """Load the model, tokenizer and task of a finished run.

    Raises:
        UserError: for a folder that is no finished run, or whose model cannot be loaded.
    """
    task = load_task(folder)
    arguments = read_json(Path(folder) / ARGUMENTS_FILE)
    generates = (Path(folder) / GENERATION_FILE).exists()
    kind = GeneratorModelArguments if generates else ModelArguments
    model_args = kind(**{field.name: arguments[field.name] for field in fields(kind) if field.init})
    if not (Path(folder) / "tokenizer_config.json").exists():  # without it transformers makes an empty tokenizer
        raise UserError(f"{folder} has lost its tokenizer: train it anew, or put its tokenizer files back")
    tokenizer = load_tokenizer(str(folder))
    adapted = (Path(folder) / ADAPTER_FILE).exists()
    if not adapted and not arguments.get("eval_only"):  # which left the model where it was
        model_args.model_name_or_path, model_args.dtype = str(folder), "float32"
    generator = None
    if generates:
        model = load_generator(model_args, tokenizer)
        limit = length_limit(task.max_length, tokenizer, model.config)
        generator = build_generator(Generation.load(folder), task.labels, tokenizer, limit)
    else:
        model = load_classifier(model_args, task.labels, tokenizer, new_head=adapted)
    if adapted:
        model = load_adapter(model, folder)
    return Run(str(folder), task, model, tokenizer, arguments["bf16"], generator)


def predict_probabilities(trainer, encoded):
    """Probabilities `[N, L]` of encoded rows, in their order, whatever the number of processes."""
    order = longest_first(encoded)
    logits = trainer.predict(encoded.select(order), metric_key_prefix="eval").predictions
    probabilities = np.empty(logits.shape, dtype=float)
    probabilities[order] = expit(logits.astype(float))
    return probabilities


def predict_table(run, table, batch_size):
    """Probabilities `[N, L]` of a run for the rows of a table, `batch_size` rows at a time in each process.

    Raises:
        UserError: for rows that cannot be read, or a probability that is not a number.
    """
    ids = read_ids(table, run.task)
    texts = read_texts(table, run.task)
    with tempfile.TemporaryDirectory() as unused:  # Trainer insists on a folder to write to
        training_args = TaskTrainingArguments(
            output_dir=unused,
            per_device_eval_batch_size=batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            bf16=None if run.bf16 else False,
        )
        if run.generator is not None:
            model = run.model.to(training_args.device).eval()
            tokenized = text_ids(texts, run.tokenizer)
            dtype = training_args.compute_dtype
            probabilities = predict_labels(model, run.generator, tokenized, batch_size, dtype).probabilities
        else:
            limit = length_limit(run.task.max_length, run.tokenizer, run.model.config)
            # Not before the arguments: they tell accelerate whether to use the CPU.
            with PartialState().main_process_first():
                encoded = encode(Dataset.from_dict({"text": texts}), run.tokenizer, limit)
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
