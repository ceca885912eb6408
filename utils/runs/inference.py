"""Load finished runs and predict: shared by everything that works with trained models."""

import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from utils.core.arguments import GeneratorModelArguments, ModelArguments
from utils.core.errors import UserError
from utils.core.files import read_part
from utils.core.processes import this_process
from utils.data.columns import read_ids, read_texts
from utils.data.task import Task
from utils.models.adapters import load_adapter
from utils.models.encoding import collator, length_limit, longest_first, token_ids
from utils.models.generator.generator import (
    GENERATION_FILE,
    Generation,
    LabelGenerator,
    build_generator,
    predict_labels,
)
from utils.models.generator.loading import load_generator
from utils.models.generator.prompts import text_ids
from utils.models.head import load_classifier
from utils.models.loading import load_tokenizer
from utils.models.precision import bf16_is_fast
from utils.runs.folder import ADAPTER_FILE, ARGUMENTS_FILE, load_task, read_json


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
    """Load the model, tokenizer and task of a finished run, on the device of this process.

    Raises:
        UserError: for a folder that is no finished run, or whose model cannot be loaded.
    """
    task = load_task(folder)
    device = this_process().device
    # Every process predicts with a whole model; under FSDP transformers would read the weights in one process alone.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    arguments = read_part(folder, ARGUMENTS_FILE, read_json)
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
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False  # keys and values of tokens that nothing follows
    if adapted:
        model = load_adapter(model, folder)
    if not getattr(model, "is_quantized", False):  # bitsandbytes has put quantised weights in their place
        model.to(device)
    return Run(str(folder), task, model.eval(), tokenizer, arguments["bf16"], generator)


def inference_dtype(bf16, device):
    """Dtype to compute matrix products in on `device`, None for the weights' own; `bf16`: as in training, see `Run`."""
    if not bf16:
        return None
    on_gpu = device.type == "cuda"
    return torch.bfloat16 if bf16_is_fast(on_gpu) else torch.float16 if on_gpu else None


def predict_probabilities(trainer, encoded):
    """Probabilities `[N, L]` of encoded rows, in their order, whatever the number of processes."""
    order = longest_first(encoded)
    logits = trainer.predict(encoded.select(order), metric_key_prefix="eval").predictions
    probabilities = np.empty(logits.shape, dtype=float)
    probabilities[order] = expit(logits.astype(float))
    return probabilities


def predict_texts(run, texts, batch_size):
    """Probabilities of a run for some texts, in their order, the same in all processes.

    The batches, of texts of one length, are dealt out to the processes; each of these holds the whole model. How the
    script was launched makes no difference, nor does the last batch.

    Args:
        run: from `load_run`.
        texts: N texts, normalised as the run wants them.
        batch_size: texts predicted at a time by one process.

    Returns:
        `[N, L]`, L in the order of the run's labels; NaN where the model gives none.
    """
    state = this_process()
    half = inference_dtype(run.bf16, state.device)
    if run.generator is not None:
        ids = text_ids(texts, run.tokenizer)
        return predict_labels(run.model, run.generator, ids, batch_size, half or torch.float32).probabilities
    limit = length_limit(run.task.max_length, run.tokenizer, run.model.config)
    ids = token_ids(texts, run.tokenizer, limit)
    order = np.argsort([-len(row) for row in ids], kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    collate = collator(run.tokenizer, state.device.type == "cuda")
    # Rows of other processes stay 0, so that the sum over all processes is the whole.
    logits = torch.zeros(len(texts), len(run.task.labels), device=state.device)
    with torch.inference_mode(), torch.autocast(state.device.type, dtype=half, enabled=half is not None):
        for rows in batches[state.process_index :: state.num_processes]:
            batch = collate([{"input_ids": ids[row], "attention_mask": np.ones_like(ids[row])} for row in rows])
            logits[torch.as_tensor(rows, device=state.device)] = run.model(**batch.to(state.device)).logits.float()
    if state.num_processes > 1:
        torch.distributed.all_reduce(logits)
    return expit(logits.double().cpu().numpy())


def predict_table(run, table, batch_size):
    """Probabilities `[N, L]` of a run for the rows of a table or of a chunk of one; arguments as in `predict_texts`.

    Raises:
        UserError: for rows that cannot be read, or a probability that is not a number.
    """
    probabilities = predict_texts(run, read_texts(table, run.task), batch_size)
    bad = np.flatnonzero(np.isnan(probabilities).any(axis=1))
    if len(bad):
        raise UserError(
            f"{run.folder} gives a probability that is NaN for {len(bad)} of {len(probabilities)} rows, the first with "
            f'id "{read_ids(table, run.task)[bad[0]]}": its weights are broken, train it anew'
        )
    return probabilities


class ProbabilityFile:
    """Probabilities `[N, L]` on disk, summed up run by run and chunk by chunk, in memory that does not grow.

    Only one model and one chunk are in memory at a time, however many runs are averaged and rows predicted. The file
    has no name: nothing is left of it, also after a kill.
    """

    def __init__(self, folder, labels):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by the garbage collector)
        self.labels = labels

    def add(self, start, probabilities):
        """Add probabilities `[n, L]` to those of the rows from `start` on."""
        self.file.seek(0, os.SEEK_END)
        known = start * self.labels * 8 < self.file.tell()
        total = self.read(start, len(probabilities)) + probabilities if known else probabilities
        self.file.seek(start * self.labels * 8)
        self.file.write(np.ascontiguousarray(total, dtype=np.float64).data)

    def read(self, start, rows):
        """The sums `[rows, L]` of the rows from `start` on."""
        self.file.seek(start * self.labels * 8)
        return np.frombuffer(self.file.read(rows * self.labels * 8), dtype=np.float64).reshape(rows, self.labels)
