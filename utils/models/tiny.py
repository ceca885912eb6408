"""Tiny models with random weights and their own tokenizers, for tests and for trying things without a download.

    python -m utils.models.tiny qwen3 outputs/tiny-qwen3

The tokenizer is trained on the texts in sample_data/train.csv, or in --train_file.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.core.log import say
from utils.core.parser import option, script

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("roberta", "qwen2", "qwen3")
VOCABULARY = 1000
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Qwen3's template without tools. A final answer begins with an empty think block; with thinking switched off, the
# generation prompt ends with that block.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
SAMPLE_FILE = Path(__file__).parents[2] / "sample_data" / "train.csv"


def sample_texts(path: str | Path = SAMPLE_FILE) -> list[str]:
    """Read the texts of a CSV file with a column Tweet.

    Raises:
        UserError: for a file that cannot be read, or has no such column.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [row["Tweet"] for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise UserError(f"{path} has no column Tweet: rename its column of texts") from error


def train_tokenizer(kind: str, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with the special tokens of RoBERTa or Qwen; Qwen3's has a chat template."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

    bpe = ByteLevelBPETokenizer()
    if kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    else:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=special)
    if kind == "roberta":
        from tokenizers.processors import RobertaProcessing

        bpe._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
        return RobertaTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=128)
    template = {"chat_template": CHAT_TEMPLATE} if kind == "qwen3" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=512,
        **template,
    )


def build(kind: str, folder: str | Path, texts: Sequence[str] | None = None, seed: int = 0, **shape: int) -> str:
    """Save a tiny base model with random weights and its tokenizer.

    Args:
        kind: `roberta`, `qwen2` or `qwen3`.
        folder: where to save.
        texts: what the tokenizer is trained on; None for the sample data.
        seed: decides the random weights.
        shape: replaces entries of SHAPE.

    Returns:
        the folder.
    """
    import torch
    import transformers

    sizes: dict[str, Any] = SHAPE | shape
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(kind, texts or sample_texts())
    if kind == "roberta":
        config = transformers.RobertaConfig(**sizes, max_position_embeddings=130, type_vocab_size=1)
        model = transformers.RobertaForMaskedLM(config)
    else:
        names = {"qwen2": ("Qwen2Config", "Qwen2ForCausalLM"), "qwen3": ("Qwen3Config", "Qwen3ForCausalLM")}
        config_name, model_name = names[kind]
        options = {"head_dim": 16} if kind == "qwen3" else {}
        config = getattr(transformers, config_name)(
            **sizes,
            **options,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        model = getattr(transformers, model_name)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@dataclass
class TinyArguments:
    """Which model, and where to."""

    words: list[str] = option(None, "KIND (roberta, qwen2 or qwen3) and FOLDER; the flag itself may be left out")
    train_file: str = option(str(SAMPLE_FILE), "CSV with a column Tweet to train the tokenizer on")

    def __post_init__(self):
        kind, folder = self.words if self.words and len(self.words) == 2 else ("", "")
        if kind not in KINDS:
            raise UserError(f"write python -m utils.models.tiny KIND FOLDER; KIND is one of {', '.join(KINDS)}")
        if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder: name another")


@script(__doc__, [TinyArguments], words="words")
def main(args: TinyArguments) -> None:
    """Build one model from the command line."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind, folder = args.words
    say(build(kind, folder, sample_texts(args.train_file)))


if __name__ == "__main__":
    main()
