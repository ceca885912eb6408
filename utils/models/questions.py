"""One question per label: the text once, then a short block of tokens for each label, all in one pass.

Each block sees the text and itself, and no other block; the text sees no block. A block's positions go on behind the
text as if the block stood there alone. So the logit of a label, read off its block's last token by a head that all
labels share, is the one that a pass with this label alone would give, whichever labels are asked for beside it. Labels
have words here instead of columns of a matrix: a trained model can be asked for labels that it has never seen.
"""

from __future__ import annotations

import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.hub import cached_file

from utils.core.arguments import ModelArguments, QuestionArguments
from utils.core.errors import UserError
from utils.core.files import read_json_object, read_part, write_json
from utils.models.encoding import first_position
from utils.models.head import get_head
from utils.models.loading import resolve_model_name

QUESTIONS_FILE = "questions.json"
# What the one logit of a head that all labels share is called in the model's configuration.
ONE_LOGIT = ["applies"]


@dataclass
class Questions:
    """How a run asks for its labels; saved with it.

    Args:
        template: words of a block, `{label}` stands for the label's description.
        descriptions: of labels that are not asked for by their names.
        labels_at_once: labels asked for in one pass of the model.
    """

    template: str
    descriptions: dict[str, str]
    labels_at_once: int

    @classmethod
    def asked_for(cls, arguments: QuestionArguments, labels: list[str]) -> Questions:
        """What the flags say.

        Args:
            arguments: the flags.
            labels: of the task, `[L]`.

        Raises:
            UserError: for descriptions that cannot be read, and of labels that are not there.
        """
        descriptions = read_descriptions(arguments.label_descriptions) if arguments.label_descriptions else {}
        unknown = [label for label in descriptions if label not in labels]
        if unknown:
            file = arguments.label_descriptions
            raise UserError(f"--label_descriptions {file} describes {unknown[0]}, which is no label of the data")
        return cls(arguments.question, descriptions, arguments.labels_at_once)

    @classmethod
    def load(cls, folder: str | Path) -> Questions:
        """Those of a finished run.

        Raises:
            UserError: for a damaged file.
        """
        content = read_part(folder, QUESTIONS_FILE, read_json_object)
        try:
            questions = cls(**content)
            ask = [questions.words(label) for label in ("", *questions.descriptions)]
            good = questions.labels_at_once >= 1 and all(isinstance(words, str) for words in ask)
        except (TypeError, AttributeError):
            good = False
        if not good:
            raise UserError(f"{Path(folder) / QUESTIONS_FILE} is damaged: copy the folder again, or train again")
        return questions

    def save(self, folder: str | Path) -> None:
        """Write them into the folder of a run."""
        write_json(Path(folder) / QUESTIONS_FILE, asdict(self))

    def words(self, label: str) -> str:
        """The words of a label's block."""
        return self.template.replace("{label}", self.descriptions.get(label, label))


def read_descriptions(path: str) -> dict[str, str]:
    """A YAML or JSON file with one line `label: description` for each label that has one.

    Raises:
        UserError: for a file that cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--label_descriptions {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--label_descriptions {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise UserError(f"--label_descriptions {path}: give one line `label: description` for each label")
    return {str(label): text for label, text in content.items()}


@dataclass
class Blocks:
    """The blocks of some labels as tensors; K tokens together.

    Args:
        ids: token ids, `[K]`.
        label: to which label each token belongs, `[K]`.
        offset: its place in its block, `[K]`.
        last: which token is the last of each label's block, `[L]`.
    """

    ids: torch.Tensor
    label: torch.Tensor
    offset: torch.Tensor
    last: torch.Tensor

    def to(self, device: torch.device) -> Blocks:
        """The same on another device."""
        return Blocks(*(tensor.to(device) for tensor in vars(self).values()))


def make_blocks(words: list[str], tokenizer: PreTrainedTokenizerBase, encoder: bool) -> Blocks:
    """Tokens of the questions of some labels; an encoder's end with its separator, which its head reads.

    Args:
        words: of the questions, `[L]`.
        tokenizer: of the model.
        encoder: whether it is one.

    Raises:
        UserError: for a question without tokens.
    """
    end = [tokenizer.sep_token_id] if encoder and tokenizer.sep_token_id is not None else []
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in words]
    empty = [text for text, ids in zip(words, tokens) if not ids]
    if empty:
        raise UserError(f'--question: nothing is left of "{empty[0]}" as tokens: write words')
    sizes = torch.tensor([len(ids) for ids in tokens])
    return Blocks(
        ids=torch.tensor([token for ids in tokens for token in ids]),
        label=torch.repeat_interleave(torch.arange(len(tokens)), sizes),
        offset=torch.cat([torch.arange(size) for size in sizes.tolist()]),
        last=sizes.cumsum(0) - 1,
    )


def check_can_ask(model: PreTrainedModel) -> None:
    """Refuse models whose attention or positions cannot be set from outside.

    Raises:
        UserError: for positions by place in the sequence (DeBERTa, MPNet), and for kernels without masks of our own.
    """
    config: Any = model.config
    if getattr(config, "relative_attention", False) or hasattr(config, "relative_attention_num_buckets"):
        raise UserError(f"--ask_labels: {type(model).__name__} counts places, not positions: choose another model")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise UserError(f"--ask_labels needs --attn_implementation sdpa, not {config._attn_implementation}")


def ask_labels(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Questions, labels: list[str]
) -> None:
    """Make a classifier with a head of one logit answer the questions of `labels`; may be called again for others.

    Args:
        model: with a head of one logit, without adapters around it.
        tokenizer: of the model.
        questions: how to ask.
        labels: to ask for, `[L]`.
    """
    encoder = get_head(model)[0] == "classifier"
    words = [questions.words(label) for label in labels]
    chunks = [words[i : i + questions.labels_at_once] for i in range(0, len(words), questions.labels_at_once)]
    asked: Any = model  # attributes that are neither parameters nor modules
    asked.question_blocks = [make_blocks(chunk, tokenizer, encoder) for chunk in chunks]
    if not hasattr(model, "stock_forward"):
        check_can_ask(model)
        base = getattr(model, model.base_model_prefix)
        if encoder:
            if getattr(base, "pooler", None) is not None:
                base.pooler = None
            base.register_forward_hook(_blocks_for_first_token, with_kwargs=True)
        asked.stock_forward = asked.forward
        model.forward = types.MethodType(_forward_with_questions, model)


def longest_question(model: PreTrainedModel) -> int:
    """Tokens of the longest question of a model after `ask_labels`."""
    asked: Any = model
    return max(int(blocks.offset.max()) + 1 for blocks in asked.question_blocks)


def _forward_with_questions(
    self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> SequenceClassifierOutput:
    """Logits `[B, L]` of texts `[B, T]`."""
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    logits = [_logits_of_blocks(self, input_ids, attention_mask, blocks) for blocks in self.question_blocks]
    return SequenceClassifierOutput(logits=torch.cat(logits, dim=1))


def _logits_of_blocks(model: Any, input_ids: torch.Tensor, mask: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    blocks = blocks.to(input_ids.device)
    (rows, length), tokens, labels = input_ids.shape, len(blocks.ids), len(blocks.last)
    causal = get_head(model)[0] == "score" and getattr(model.config, "is_causal", True)
    inputs = {
        "input_ids": torch.cat([input_ids, blocks.ids.expand(rows, tokens)], dim=1),
        "attention_mask": as_bias(what_sees_what(mask, blocks, causal), model),
        "position_ids": positions(mask, blocks) + first_position(model.config),
    }
    base = getattr(model, model.base_model_prefix)
    at = length + blocks.last
    if get_head(model)[0] == "score":
        states = base(**inputs, use_cache=False).last_hidden_state[:, at]
        return model.score(states).squeeze(-1)
    base.block_ends = at  # for the hook: the head then sees each block's last token where it looks for the first
    return model.stock_forward(**inputs).logits.reshape(rows, labels)


def _blocks_for_first_token(base: Any, inputs: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    states = output.last_hidden_state[:, base.block_ends].flatten(0, 1)
    output.last_hidden_state = states.unsqueeze(1)
    if "pooler_output" in type(output).__dataclass_fields__:
        output.pooler_output = states
    return output


def what_sees_what(mask: torch.Tensor, blocks: Blocks, causal: bool) -> torch.Tensor:
    """Which token attends to which, `[B, T + K, T + K]` of booleans.

    Args:
        mask: of the texts, 1 for tokens that are not padding, `[B, T]`.
        blocks: of K tokens.
        causal: whether no token sees those behind it.
    """
    (rows, length), tokens = mask.shape, len(blocks.ids)
    size = length + tokens
    own = blocks.label[:, None] == blocks.label[None, :]
    sees = torch.zeros(rows, size, size, dtype=torch.bool, device=mask.device)
    sees[:, :, :length] = mask.bool()[:, None, :]
    sees[:, length:, length:] = own
    if causal:
        sees &= torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    # Padding sees itself: a softmax over nothing is NaN, and would spread through the gradients.
    return sees | torch.eye(size, dtype=torch.bool, device=mask.device)


def positions(mask: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """Positions `[B, T + K]` from 0: those of the text, then for every block those behind the text."""
    text = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.cat([text, mask.sum(dim=1, keepdim=True) + blocks.offset], dim=1)


def as_bias(sees: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """The mask as the attention of `model` wants it, `[B, 1, T + K, T + K]`: booleans, or numbers to add."""
    if model.config._attn_implementation == "sdpa":
        return sees.unsqueeze(1)
    lowest = torch.finfo(torch.float32).min
    return torch.where(sees, 0.0, lowest).unsqueeze(1).to(next(model.parameters()).dtype)


def start_from_yes_and_no(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, model_args: ModelArguments
) -> None:
    """Let the head of one logit start as the language head's row for yes minus that for no.

    The logit then is the difference that the language model itself gives to the two answers.

    Args:
        model: a decoder.
        tokenizer: of the model.
        model_args: where the model was loaded from.

    Raises:
        UserError: for encoders, and models without a language head.
    """
    head_name, head = get_head(model)
    if head_name != "score":
        raise UserError(
            f"--question_head yes_no is for decoders; {type(model).__name__} writes no answers: leave it out"
        )
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no"))
    if getattr(model.config, "tie_word_embeddings", False):
        embeddings: Any = model.get_input_embeddings()
        rows = embeddings.weight.detach()
        difference = rows[yes].float() - rows[no].float()
    else:
        difference = _stored_row(model_args, "lm_head.weight", yes) - _stored_row(model_args, "lm_head.weight", no)
    score: Any = head
    with torch.no_grad():
        score.weight.copy_(difference.unsqueeze(0))


def _stored_row(model_args: ModelArguments, name: str, row: int) -> torch.Tensor:
    """One row of a tensor of a checkpoint in fp32, without reading the rest of it."""
    model_name, revision = resolve_model_name(model_args.model_name_or_path), model_args.model_revision

    def find(file: str) -> str | None:
        return cached_file(model_name, file, revision=revision, _raise_exceptions_for_missing_entries=False)

    file = find("model.safetensors")
    index = None if file else find("model.safetensors.index.json")
    if index:
        file = find(read_json_object(index)["weight_map"].get(name, ""))
    if file:
        with safe_open(file, framework="pt") as weights:
            if name in weights.keys():  # noqa: SIM118 (not a dictionary)
                return weights.get_slice(name)[row].float()
    raise UserError(f"--question_head yes_no: {model_name} has no {name}: choose --question_head linear")
