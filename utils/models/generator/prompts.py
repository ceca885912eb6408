"""Prompts and answers of a label generator as token ids: an instruction that all rows share, the text, the labels."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import torch
from jinja2 import StrictUndefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from utils.core.bounds import bounded
from utils.core.errors import UserError
from utils.data.examples import Examples, cache_key
from utils.data.mapping import map_rows
from utils.models.encoding import first_position, rounded_up, shorten, tokenizer_key
from utils.models.generator.label_text import SEPARATOR, LabelText

IGNORED = -100  # label id of a token that does not count in the loss
LONGEST_PROMPT = 1_000_000  # characters
# Stands for the text while a prompt is cut into the parts before and after it.
TEXT_MARK = "\ue000"
DEFAULT_TEMPLATE = """\
Which of these labels fit the text below? {{ labels | join(", ") }}
Answer with the labels that fit, in this order, divided by commas, or with "{{ no_label }}".

Text:
{{ text }}
{%- if not chat %}

Labels:
{% endif %}"""
ONE_LABEL_TEMPLATE = """\
Which of these labels fits the text below best? {{ labels | join(", ") }}
Answer with that one label.

Text:
{{ text }}
{%- if not chat %}

Label:
{% endif %}"""


@dataclass
class Prompt:
    """What is around a text: `before` and `after` as texts, `head` and `tail` as token ids. The answer comes right
    behind, and token `end` ends it.

    The parts are tokenised by themselves. So the head is the same for every row and need be run once, a text is
    shortened without touching the rest, and one that holds `<|im_end|>` cannot end the user's turn.
    """

    before: str
    after: str
    head: list[int]
    tail: list[int]
    end: int


@dataclass
class AnswerTokens:
    """Token ids of the labels in their written order: as first in an answer, after another, and of the empty set.

    An answer is put together from these, so what training teaches and what scoring looks for are the same tokens.
    `single_label`: whether an answer is exactly one label, so that no other is valid.
    """

    first: list[list[int]]
    later: list[list[int]]
    none: list[int]
    end: int
    single_label: bool = False

    @property
    def longest(self) -> int:
        """Number of tokens of the longest answer: the one that holds every label, or the longest label."""
        if self.single_label:
            return max(map(len, self.first)) + 1
        return len(self.write(np.ones(len(self.first))))

    def write(self, row: np.ndarray) -> list[int]:
        """Token ids of the answer for a 0/1 row in the written order, with the end token."""
        ids = []
        for i in np.flatnonzero(row):
            ids += self.later[i] if ids else self.first[i]
        return (ids or list(self.none)) + [self.end]


def _render(template: str, label_text: LabelText, chat: bool) -> str:
    """The user's words with TEXT_MARK for the text."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        values = {"text": TEXT_MARK, "labels": label_text.words, "no_label": label_text.none, "chat": chat}
        with bounded("the prompt template"):  # compiling computes constants
            tree = environment.parse(template)
            rendered = _join(environment.from_string(template).generate(values))
    except UserError:
        raise
    except Exception as error:  # a template may fail in any way
        raise UserError(f"--prompt_template: {error}; it may use text, labels, no_label and chat") from error
    # With a filter or a condition on the text it would be the mark that is filtered or asked about.
    uses = [name for name in tree.find_all(nodes.Name) if name.name == "text"]
    shown = [name for output in tree.find_all(nodes.Output) for name in output.nodes if name in uses]
    if rendered.count(TEXT_MARK) != 1 or len(uses) != 1 or len(shown) != 1:
        raise UserError("--prompt_template: {{ text }} must stand in it once, as it is")
    return rendered


def _join(parts: Iterable[str]) -> str:
    """The parts of a rendered template as one text.

    Raises:
        UserError: for a text that no model takes.
    """
    found, size = [], 0
    for part in parts:
        found.append(part)
        size += len(part)
        if size > LONGEST_PROMPT:
            raise UserError(f"the prompt template makes a text of more than {LONGEST_PROMPT:,} characters: shorten it")
    return "".join(found)


def build_prompt(template: str, label_text: LabelText, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """The prompt of a model: through its chat template, with thinking off, where it has one, else plain.

    Args:
        template: Jinja template of the user's words, with `text`, `labels` (list of names), `no_label` (the word for
            none) and `chat` (whether the model's chat template goes around it).
        label_text: how sets of labels are written.
        tokenizer: of the model.

    Raises:
        UserError: for a template that does not hold the text once, or a tokenizer without an end token.
    """
    chat = bool(tokenizer.chat_template)
    words = _render(template, label_text, chat)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    start = []
    if chat:
        words, end = _chat(words, tokenizer, end)
    else:
        # The special tokens that the tokenizer puts before a text, without those it puts behind it.
        first = tokenizer("a")["input_ids"][:1]
        start = first if first and first[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []
    if end is None:
        raise UserError("the tokenizer has no end token, so an answer could not end: set one")
    if words.count(TEXT_MARK) != 1:
        raise UserError("the model's chat template does not hold the user's words once: use another model")
    before, after = words.split(TEXT_MARK)
    before = str(tokenizer.decode(start)) + before
    head, tail = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
    return Prompt(before, after, head, tail, end)


def _chat(words: str, tokenizer: PreTrainedTokenizerBase, end: int | None) -> tuple[str, int | None]:
    """The user's words inside the model's chat template, and the token that ends the answer's turn, by default `end`.

    Raises:
        UserError: for a chat template that cannot be used.
    """
    messages = [{"role": "user", "content": words}]
    options: dict[str, Any] = {"tokenize": False, "enable_thinking": False}
    answer = {"role": "assistant", "content": TEXT_MARK + TEXT_MARK}
    try:
        with bounded("the model's chat template"):
            whole = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options))
            after = str(tokenizer.apply_chat_template([*messages, answer], **options)).split(TEXT_MARK + TEXT_MARK)[-1]
        _join([whole, after])
    except UserError:
        raise
    except Exception as error:  # a template may fail in any way
        raise UserError(f"the model's chat template cannot be used: {error}") from error
    if whole.rstrip().endswith("<think>"):  # a template that cannot switch thinking off
        whole = whole.rstrip() + "\n\n</think>\n\n"
    # What ends a turn is not always the tokenizer's end token: Qwen2.5's base models end texts with another.
    ids = tokenizer(after.strip(), add_special_tokens=False)["input_ids"]
    if ids and (ids[0] in tokenizer.all_special_ids or ids[0] in tokenizer.added_tokens_decoder):
        end = ids[0]
    return whole, end


def answer_tokens(
    label_text: LabelText, tokenizer: PreTrainedTokenizerBase, end: int, single_label: bool = False
) -> AnswerTokens:
    """The labels in a tokenizer's tokens.

    Args:
        label_text: how sets of labels are written.
        tokenizer: of the model.
        end: token that ends an answer.
        single_label: whether an answer is exactly one label.

    Raises:
        UserError: for a label with a special token of the tokenizer in it.
    """
    for name in label_text.order:
        for token in _added_tokens(tokenizer):
            if token in name:
                raise UserError(f'the label "{name}" holds {token}, which is a special token of the model: rename it')

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    first = [ids(word) for word in label_text.words]
    later = []
    for word in label_text.words:
        # As the tokenizer writes it behind another label: some put a mark before the first word of a text.
        behind = ids(label_text.words[0] + SEPARATOR + word)
        cut = len(first[0])
        later.append(behind[cut:] if behind[:cut] == first[0] else ids(SEPARATOR + word))
    return AnswerTokens(first, later, ids(label_text.none), end, single_label)


def text_budget(prompt: Prompt, answers: AnswerTokens, max_length: int) -> int:
    """Tokens that are left for a text beside the prompt and the longest answer.

    Args:
        prompt: what is around a text.
        answers: tokens of the labels.
        max_length: tokens of prompt, text and answer together.

    Raises:
        UserError: where there are none.
    """
    budget = max_length - len(prompt.head) - len(prompt.tail) - answers.longest
    if budget < 1:
        raise UserError(
            f"no room is left for a text: the prompt takes {len(prompt.head) + len(prompt.tail)} tokens and an answer "
            f"up to {answers.longest}, the limit is {max_length}: raise --max_length if the model takes more, or "
            "shorten the prompt by --prompt_template"
        )
    return budget


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the tokenizer reads as one token wherever it stands: `<|im_end|>`, `<think>`. Blanks are not meant."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if len(str(token).strip()) > 1]


def text_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts by themselves; what looks like a special token is read as ordinary characters."""
    added = _added_tokens(tokenizer)
    special = re.compile("|".join(map(re.escape, added)) or r"(?!)")
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    for i, text in enumerate(texts):
        if special.search(text):
            # split_special_tokens leaves some of them whole: each is cut behind its first character.
            text = special.sub(lambda match: match[0][0] + TEXT_MARK + match[0][1:], text)
            parts = tokenizer(text.split(TEXT_MARK), add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids[i] = [token for part in parts for token in part]
    return ids


def encode_conversations(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    answers: AnswerTokens,
    columns: list[int],
    budget: int,
    long_texts: str = "cut",
) -> datasets.Dataset:
    """Tokenize texts with prompt and answer, once: the result is cached.

    Args:
        examples: N rows.
        tokenizer: of the model.
        prompt: what is around a text.
        answers: tokens of the labels.
        columns: column of each label in the written order, `[L]`.
        budget: tokens that a text is cut to.
        long_texts: from where: `cut`, its end, or `middle`.

    Returns:
        data set with input_ids, `labels` (the answer's ids, IGNORED before it), `length` (tokens) and `full_length`
        (tokens if the text had not been cut).
    """

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        texts = text_ids(batch["text"], tokenizer)
        rows = np.array(batch["labels"], dtype=np.float32)[:, columns]
        replies = [answers.write(row >= 0.5) for row in rows]
        # A row with cells that nobody has annotated has no right answer, and counts in no loss.
        counted = np.asarray(~np.isnan(rows).any(axis=1))
        prompts = [prompt.head + shorten(ids, budget, long_texts) + prompt.tail for ids in texts]
        lengths = [len(asked) + len(reply) for asked, reply in zip(prompts, replies)]
        return {
            "input_ids": [asked + reply for asked, reply in zip(prompts, replies)],
            "labels": [
                [IGNORED] * len(asked) + (reply if known else [IGNORED] * len(reply))
                for asked, reply, known in zip(prompts, replies, counted)
            ],
            "length": lengths,
            "full_length": [length + max(0, len(ids) - budget) for length, ids in zip(lengths, texts)],
        }

    rows = examples.rows
    ids, count = datasets.List(datasets.Value("int32")), datasets.Value("int32")
    features = datasets.Features({"input_ids": ids, "labels": ids, "length": count, "full_length": count})
    weight = {"weight": rows.features["weight"]} if "weight" in rows.column_names else {}
    options = tokenizer_key(tokenizer) | asdict(prompt) | asdict(answers) | {"columns": columns, "budget": budget}
    options["long_texts"] = long_texts
    key = cache_key(rows._fingerprint, options, sys.modules[__name__])
    drop = [name for name in rows.column_names if name not in weight and name != "labels"]
    kinds = datasets.Features(features | weight)
    return map_rows(rows, tokenize, key, "tokenizing", remove_columns=drop, features=kinds)


def left_padded(
    rows: list[list[int]], pad_id: int, multiple_of: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of token ids on the left, so that they end together.

    Args:
        rows: N lists of ids.
        pad_id: of the tokenizer.
        multiple_of: what the length is rounded up to.

    Returns:
        `(input_ids, attention_mask)`, both `[N, T]`.
    """
    lengths = np.array([len(row) for row in rows])
    longest = -(-int(lengths.max()) // (multiple_of or 1)) * (multiple_of or 1)
    mask = np.arange(longest) >= longest - lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


class AnswerCollator:
    """Pads a batch on the left, so that all answers end together and the head need be run for the last tokens only.

    Args:
        config: of the model.
        on_gpu: whether the batches are for a GPU, whose tensor cores like multiples of 8.
    """

    def __init__(self, config: PreTrainedConfig, on_gpu: bool):
        self.pad_id, self.first_position = config.pad_token_id, first_position(config)
        self.multiple_of = 8 if on_gpu else None

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """A batch of rows of `encode_conversations`.

        Returns:
            `input_ids`, `attention_mask` and `position_ids` `[N, T]`; `labels` `[N, 1 + A]` for answers of A tokens at
            most: of the last token before the longest of them, and of the A behind it; `weight` `[N]` where rows have
            weights.
        """
        ids = [row["input_ids"] for row in rows]
        input_ids, attention_mask = left_padded(ids, self.pad_id, rounded_up(self.multiple_of, ids))
        labels, _ = left_padded([row["labels"] for row in rows], IGNORED)
        longest = int((labels != IGNORED).sum(dim=1).max())
        positions = self.first_position + (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        batch = {
            "input_ids": input_ids, "attention_mask": attention_mask, "position_ids": positions,
            "labels": labels[:, -longest - 1 :],
        }  # fmt: skip
        return batch | ({"weight": torch.tensor([row["weight"] for row in rows])} if "weight" in rows[0] else {})
