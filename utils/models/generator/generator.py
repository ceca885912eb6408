"""A label generator: how it is asked, what its answers mean, and what it says of texts; kept in `generation.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.processes import this_process
from utils.models.generator.label_text import LabelText, choose_label_text
from utils.models.generator.label_tree import LabelTree, build_label_tree
from utils.models.generator.prompts import (
    DEFAULT_TEMPLATE,
    AnswerTokens,
    Prompt,
    answer_tokens,
    build_prompt,
    text_budget,
)
from utils.models.generator.search import decode_freely, score_labels

GENERATION_FILE = "generation.json"


@dataclass
class Generation:
    """The content of a run folder's `generation.json`."""

    prompt_template: str
    order: list[str]
    no_label: str
    decoding: str
    coverage: float
    max_nodes: int

    def save(self, folder):
        """Write `generation.json` into `folder`."""
        write_json(Path(folder) / GENERATION_FILE, asdict(self))

    @classmethod
    def load(cls, folder):
        """Read `generation.json` from `folder`."""
        return cls(**read_json(Path(folder) / GENERATION_FILE))


@dataclass
class LabelGenerator:
    """A `Generation` in a tokenizer's tokens."""

    generation: Generation
    label_text: LabelText
    tokenizer: object
    prompt: Prompt
    answers: AnswerTokens
    tree: LabelTree
    budget: int  # tokens of a text


def choose_generation(generation_args, task):
    """The `Generation` that the arguments ask for.

    Raises:
        UserError: for a template file that cannot be read, or labels that cannot be written.
    """
    template = DEFAULT_TEMPLATE
    if generation_args.prompt_template:
        try:
            template = Path(generation_args.prompt_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompt_template {generation_args.prompt_template} cannot be read: {error}") from error
    label_text = choose_label_text(task.labels, generation_args.label_order, task.train_positives)
    return Generation(
        template,
        label_text.order,
        label_text.none,
        generation_args.decoding,
        generation_args.coverage,
        generation_args.max_nodes,
    )


def build_generator(generation, labels, tokenizer, max_length):
    """The `LabelGenerator` for a tokenizer.

    Raises:
        UserError: where prompt, labels and `max_length` do not go together.
    """
    label_text = LabelText(labels, generation.order, generation.no_label)
    prompt = build_prompt(generation.prompt_template, label_text, tokenizer)
    answers = answer_tokens(label_text, tokenizer, prompt.end)
    tree = build_label_tree(answers)
    budget = text_budget(prompt, answers, max_length)
    return LabelGenerator(generation, label_text, tokenizer, prompt, answers, tree, budget)


@dataclass
class Predictions:
    """Of N rows, columns in the task's order: `decoded` 0/1 `[N, L]`, `probabilities` `[N, L]`, `covered` `[N]` (mass
    of the answers that were looked at); `unknown`: words of free answers that are no label, with how often."""

    decoded: np.ndarray
    probabilities: np.ndarray
    covered: np.ndarray
    unknown: dict[str, int]


def _is_sharded(model):
    """Whether the weights are spread over the processes, by FSDP or DeepSpeed ZeRO-3."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


def predict_labels(model, generator, texts, batch_size, dtype, coverage=None):
    """What the generator says of texts given as token ids, in their order, computed by all processes together.

    Args:
        batch_size: rows that one process takes at a time.
        dtype: that matrix products are computed in.
        coverage: left out: the generation's.
    """
    state = this_process()
    generation, label_text, tokenizer = generator.generation, generator.label_text, generator.tokenizer
    order = np.argsort([-len(ids) for ids in texts], kind="stable")
    # Sharded weights are gathered at each pass by all processes, which then must make the same passes.
    spread = state.num_processes > 1 and not _is_sharded(model)
    mine = (order[state.process_index :: state.num_processes] if spread else order).tolist()
    rows = [texts[i][: generator.budget] for i in mine]
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        scores = score_labels(
            model,
            generator.tree,
            generator.prompt,
            rows,
            tokenizer.pad_token_id,
            batch_size,
            generation.coverage if coverage is None else coverage,
            generation.max_nodes,
        )
        if generation.decoding == "free":
            answers = decode_freely(model, tokenizer, generator.prompt, rows, batch_size, generator.answers.longest)
    back = np.argsort(label_text.columns)
    decoded, unknown = scores.decoded[:, back], {}
    if generation.decoding == "free":
        for i, (row, words) in enumerate(map(label_text.read, answers)):
            decoded[i] = row
            for word in words:
                unknown[word] = unknown.get(word, 0) + 1
    parts = [(mine, decoded, scores.probabilities[:, back], scores.covered, unknown)]
    if spread:
        parts = gather_object(parts)
    shape = (len(texts), generator.tree.size)
    predictions = Predictions(np.zeros(shape, np.int8), np.zeros(shape), np.zeros(len(texts)), {})
    for rows, decoded, probabilities, covered, unknown in parts:
        predictions.decoded[rows], predictions.probabilities[rows] = decoded, probabilities
        predictions.covered[rows] = covered
        for word, count in unknown.items():
            predictions.unknown[word] = predictions.unknown.get(word, 0) + count
    return predictions
