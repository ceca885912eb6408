"""Print the exact tokens that count in the loss of run_sft_labels.py, for three rows, one of them without labels.

    python -m benchmarks.loss_tokens --tokenizer TOKENIZER_FOLDER --train_file train.csv

The exit status is 0 if only the labels and the end token of these rows count, and if all prompts have the tokens of the
text that the chat template renders, tokenised in one piece.
"""

import argparse
import sys

import numpy as np
from transformers import AutoTokenizer

from utils.core.arguments import DataArguments, GenerationArguments
from utils.data.training_data import read_training_data
from utils.models.generator.answering import Generation, build_format
from utils.models.generator.prompts import IGNORED, encode_conversations


def main():
    """Print three rows and check the tokens of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train_file", default="sample_data/train.csv")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    train, _, task = read_training_data(DataArguments(train_file=args.train_file), 42)
    form = build_format(Generation.choose(GenerationArguments(), task), task.labels, tokenizer, 256)
    prompt, answers, columns = form.prompt, form.answers, form.label_text.columns
    counts = train.labels.sum(axis=1)
    rows = [int(np.flatnonzero(counts == wanted)[0]) for wanted in (1, 3, 0)]
    encoded = encode_conversations(train.select(rows), tokenizer, prompt, answers, columns, form.budget)
    wrong = 0
    for row, example in zip(rows, encoded):
        counted = [token for token in example["labels"] if token != IGNORED]
        expected = form.label_text.write(train.labels[row])
        print(f"row {row}: {train.rows[row]['text']!r}")
        print(f"  counts in the loss: {' | '.join(repr(tokenizer.decode([token])) for token in counted)}")
        print(f"  ids: {counted}")
        print(f"  before it: {tokenizer.decode(example['input_ids'][: -len(counted)])[-70:]!r}")
        wrong += tokenizer.decode(counted) != expected + tokenizer.decode([prompt.end])
    whole = [f"{prompt.before}{text}{prompt.after}" for text in train.texts]
    ids = encode_conversations(train, tokenizer, prompt, answers, columns, 10**6)
    same = sum(
        tokenizer(text, add_special_tokens=False)["input_ids"]
        == [token for token, label in zip(r["input_ids"], r["labels"]) if label == IGNORED]
        for text, r in zip(whole, ids)
    )
    print(f"prompts whose parts give the same tokens as the whole text: {same} of {len(train)}")
    sys.exit(bool(wrong) or same < len(train))


if __name__ == "__main__":
    main()
