"""Asking a language model for labels: what it is asked, what its answers mean, and how they are scored."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.core.arguments import GenerationArguments
from utils.core.errors import UserError
from utils.core.files import read_json_object, read_part, write_json
from utils.core.processes import this_process
from utils.data.task import Task
from utils.models.encoding import longest_first, shorten
from utils.models.generator.free import decode_freely
from utils.models.generator.label_text import LabelText, choose_label_text
from utils.models.generator.label_tree import LabelTree, build_label_tree
from utils.models.generator.prompts import (
    DEFAULT_TEMPLATE,
    ONE_LABEL_TEMPLATE,
    AnswerTokens,
    Prompt,
    answer_tokens,
    build_prompt,
    text_budget,
)
from utils.models.generator.search import score_labels
from utils.models.sharding import in_lockstep

GENERATION_FILE = "generation.json"


@dataclass
class Generation:
    """The content of a run folder's `generation.json`: how a model is asked, and how far its answers are searched.

    Args:
        prompt_template: Jinja template of the user's words.
        order: the labels as they follow each other in an answer, `[L]`.
        no_label: the word for none.
        decoding: `constrained` to valid answers, or `free`.
        coverage: probability of the answers to reach.
        max_nodes: branches of the tree of answers to look at for a row at most.
    """

    prompt_template: str
    order: list[str]
    no_label: str
    decoding: str
    coverage: float
    max_nodes: int

    @classmethod
    def choose(cls, generation_args: GenerationArguments, task: Task) -> Generation:
        """What the flags ask for.

        Raises:
            UserError: for a template file that cannot be read, or labels that cannot be written.
        """
        template = ONE_LABEL_TEMPLATE if task.single_label else DEFAULT_TEMPLATE
        file = generation_args.prompt_template
        if file:
            try:
                template = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"--prompt_template {file} cannot be read: {error}") from error
        label_text = choose_label_text(task.labels, generation_args.label_order, task.train_positives)
        search = (generation_args.decoding, generation_args.coverage, generation_args.max_nodes)
        return cls(template, label_text.order, label_text.none, *search)

    def save(self, folder: str | Path) -> None:
        """Write `generation.json` into a folder."""
        write_json(Path(folder) / GENERATION_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Generation:
        """Read `generation.json` from a folder.

        Raises:
            UserError: for a folder that has lost it.
        """
        return read_part(folder, GENERATION_FILE, lambda path: cls(**read_json_object(path))._checked())

    def _checked(self) -> Generation:
        """Itself.

        Raises:
            ValueError: for what no run writes.
        """
        texts = [self.prompt_template, self.no_label, *self.order]
        numbers = type(self.max_nodes) is int and self.max_nodes >= 1 and isinstance(self.coverage, int | float)
        if not isinstance(self.order, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("template, order and no_label must be texts")
        if not numbers or not 0 <= self.coverage <= 1 or self.decoding not in ("constrained", "free"):
            raise ValueError("coverage, max_nodes or decoding cannot be used")
        return self


@dataclass
class AnswerFormat:
    """A `Generation` in a tokenizer's tokens.

    Args:
        generation: what is put in tokens.
        label_text: how sets of labels are written.
        tokenizer: of the model.
        prompt: what is around a text.
        answers: the labels in tokens.
        tree: all valid answers.
        budget: tokens of a text.
        long_texts: what is done with longer ones: `cut` or `middle`.
    """

    generation: Generation
    label_text: LabelText
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    answers: AnswerTokens
    tree: LabelTree
    budget: int
    long_texts: str = "cut"


def build_format(
    generation: Generation,
    labels: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    single_label: bool = False,
) -> AnswerFormat:
    """Put a `Generation` in a tokenizer's tokens.

    Args:
        generation: how the model is asked.
        labels: names of the labels in the order of the task, `[L]`.
        tokenizer: of the model.
        max_length: tokens of prompt, text and answer together.
        single_label: whether answers of exactly one label alone are valid.

    Raises:
        UserError: where prompt, labels and `max_length` do not go together.
    """
    if sorted(labels) != sorted(generation.order):
        raise UserError(
            f"{GENERATION_FILE} orders other labels than the task has: copy the folder again, or train again"
        )
    label_text = LabelText(labels, generation.order, generation.no_label)
    prompt = build_prompt(generation.prompt_template, label_text, tokenizer)
    answers = answer_tokens(label_text, tokenizer, prompt.end, single_label)
    budget = text_budget(prompt, answers, max_length)
    return AnswerFormat(generation, label_text, tokenizer, prompt, answers, build_label_tree(answers), budget)


@dataclass
class Answers:
    """What a model answers to N texts; columns are in the order of the task.

    Args:
        decoded: 0/1 array `[N, L]`.
        probabilities: `[N, L]`.
        covered: probability of the answers that were looked at, `[N]`.
        unknown: words of free answers that are no label, with how often they stand there.
    """

    decoded: np.ndarray
    probabilities: np.ndarray
    covered: np.ndarray
    unknown: Counter[str]


def answer_texts(
    model: PreTrainedModel,
    form: AnswerFormat,
    texts: list[list[int]],
    batch_size: int,
    dtype: torch.dtype,
    coverage: float | None = None,
) -> Answers:
    """What a model answers to texts, in their order, computed by all processes together.

    Args:
        model: causal language model, on its device, in evaluation mode.
        form: how it is asked.
        texts: token ids of N texts.
        batch_size: rows that one process takes at a time.
        dtype: that matrix products are computed in.
        coverage: probability of the answers to reach; left out: the generation's.
    """
    state = this_process()
    order = longest_first([len(ids) for ids in texts])
    mine = order[state.process_index :: state.num_processes].tolist()
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32), in_lockstep(model):
        rows = [shorten(texts[i], form.budget, form.long_texts) for i in mine]
        part = _answer_rows(model, form, rows, batch_size, form.generation.coverage if coverage is None else coverage)
    parts = gather_object([(mine, part)])
    shape = (len(texts), form.tree.size)
    answers = Answers(np.zeros(shape, np.int8), np.zeros(shape), np.zeros(len(texts)), Counter())
    for numbers, part in parts:
        answers.decoded[numbers], answers.probabilities[numbers] = part.decoded, part.probabilities
        answers.covered[numbers] = part.covered
        answers.unknown.update(part.unknown)
    return answers


def _answer_rows(
    model: PreTrainedModel, form: AnswerFormat, rows: list[list[int]], batch_size: int, coverage: float
) -> Answers:
    """What a model answers to the rows of one process, given as token ids of their texts."""
    generation, prompt, pad_id = form.generation, form.prompt, form.tokenizer.pad_token_id
    scores = score_labels(model, form.tree, prompt, rows, pad_id, batch_size, coverage, generation.max_nodes)
    back = np.argsort(form.label_text.columns)  # from the written order to the task's
    decoded, unknown = scores.decoded[:, back], Counter()
    if generation.decoding == "free":
        answers = decode_freely(model, form.tokenizer, prompt, rows, batch_size, form.answers.longest)
        for i, (row, words) in enumerate(map(form.label_text.read, answers)):
            decoded[i] = row
            unknown.update(words)
    return Answers(decoded, scores.probabilities[:, back], scores.covered, unknown)
