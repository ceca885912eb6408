"""The rows, in the form of each tool, and the causal model that both label generators start from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from utils.core.arguments import DataArguments, GeneratorModelArguments
from utils.data.examples import Examples
from utils.data.task import Task
from utils.data.training_data import read_training_data
from utils.models.generator.label_text import LabelText, choose_label_text
from utils.models.generator.loading import load_generator
from utils.models.loading import load_tokenizer, resolve_model_name

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "recipes/prompts/short.jinja"  # of recipes/minilm_labels_cpu.yaml


@dataclass
class Material:
    """What a round works on.

    Args:
        folder: where all of it lies.
        train: training rows.
        validation: held-out rows.
        task: their labels.
        label_text: how a label generator writes sets of labels.
        encoder: folder of the model.
        generator: folder of the same model made causal.
    """

    folder: Path
    train: Examples
    validation: Examples
    task: Task
    label_text: LabelText
    encoder: str
    generator: str


def prepare(folder: Path, model: str, files: dict[str, str], rows: dict[str, int | None], seed: int) -> Material:
    """Draw rows, and write everything that the tools read.

    Args:
        folder: to write to.
        model: folder of an encoder, or `embedded-minilm`.
        files: CSV with a header: `train` and `validation`.
        rows: how many to draw of each; None for all.
        seed: of the draw.
    """
    drawn = {name: str(folder / f"{name}.csv") for name in files}
    for name, file in files.items():
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if rows[name] is not None:
            table = table.sample(n=min(rows[name], len(table)), random_state=seed).sort_index()
        table.to_csv(drawn[name], index=False)
    data_args = DataArguments(train_file=[drawn["train"]], validation_file=drawn["validation"])
    train, validation, task = read_training_data(data_args, seed)
    label_text = choose_label_text(task.labels, "columns", task.train_positives)
    template = (ROOT / PROMPT).read_text(encoding="utf-8")
    for name, examples in (("train", train), ("validation", validation)):
        # As the template is rendered where it has no more than the text.
        prompts = [template.replace("{{ text }}", text) for text in examples.texts]
        content = {"texts": examples.texts, "labels": examples.labels.tolist(), "prompts": prompts}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "conversations").mkdir()
    with open(folder / "conversations" / "train.jsonl", "w") as file:
        for text, row in zip(train.texts, train.labels):
            prompt = template.replace("{{ text }}", text)
            file.write(json.dumps({"prompt": prompt, "completion": label_text.write(row)}) + "\n")
    make_causal(model, folder / "generator")
    encoder, generator = resolve_model_name(model), str(folder / "generator")
    return Material(folder, train, validation, task, label_text, encoder, generator)


def make_causal(model: str, folder: Path) -> None:
    """Write an encoder as a causal model, as run_sft_labels.py makes one, with a tokenizer as decoders have them.

    Args:
        model: folder of an encoder, or `embedded-minilm`.
        folder: to write to.
    """
    tokenizer = load_tokenizer(model)
    load_generator(GeneratorModelArguments(model_name_or_path=model, dtype="float32"), tokenizer).save_pretrained(
        folder
    )
    # [CLS] and [SEP] around a prompt would stand between it and the answer. The class of an encoder's tokenizer puts
    # them there whatever its folder says; this one takes what it is given.
    end = tokenizer.eos_token or tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=end,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
    plain.save_pretrained(folder)
    prompt = "a text\n\nLabels:\n"
    loaded = load_tokenizer(str(folder))
    if loaded(prompt + "b")["input_ids"][: len(loaded(prompt)["input_ids"])] != loaded(prompt)["input_ids"]:
        raise ValueError(f"{model}: its tokenizer puts tokens between a prompt and its answer")
