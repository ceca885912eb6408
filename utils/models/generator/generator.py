"""The second approach: a language model that answers a text with its labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.core.arguments import GenerationArguments, GeneratorModelArguments, ModelArguments
from utils.core.log import log
from utils.data.examples import Examples
from utils.data.task import Task
from utils.models.adapters import add_lora, dtype_of_merged, load_adapter, merge_adapter, to_merge
from utils.models.approaches import finished_model_args
from utils.models.encoding import length_limit
from utils.models.generator.answering import GENERATION_FILE, Generation, answer_texts, build_format
from utils.models.generator.loading import load_generator
from utils.models.generator.prompts import AnswerCollator, encode_conversations, text_ids
from utils.models.generator.search import check_scorable
from utils.models.layers import freeze_layers
from utils.models.loading import load_tokenizer
from utils.scoring.predictions import Predictions


class LabelGenerator:
    """A language model that is asked for the labels of a text, its tokenizer and its labels.

    Args:
        model: causal language model; with LoRA adapters where it has them.
        tokenizer: of the model.
        model_args: how the model was loaded.
        task: labels and text options.
        generation: how the model is asked.
        max_length: tokens of prompt, text and answer together asked for; the model may take less.
    """

    model_arguments: ClassVar[type[ModelArguments]] = GeneratorModelArguments
    # What a prediction needs from the run's folder besides weights.
    files: ClassVar[tuple[str, ...]] = ("tokenizer_config.json", GENERATION_FILE)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_args: ModelArguments,
        task: Task,
        generation: Generation,
        max_length: int,
    ):
        self.model, self.tokenizer, self.model_args, self.task = model, tokenizer, model_args, task
        self.name = model_args.model_name_or_path
        self.max_length = length_limit(max_length, tokenizer, model.config)
        self.compute_dtype = torch.float32  # of matrix products in `predict`
        self.form = build_format(generation, task.labels, tokenizer, self.max_length, task.single_label)
        self.form.long_texts = task.long_texts
        self.unknown_words: Counter[str] = Counter()  # in the free answers to the texts answered last

    @classmethod
    def new(
        cls, model_args: GeneratorModelArguments, generation_args: GenerationArguments, task: Task, max_length: int
    ) -> LabelGenerator:
        """A model to train, with LoRA adapters where asked for, or to score as it is.

        Args:
            model_args: which model, in full or with LoRA.
            generation_args: how it is asked.
            task: labels and text options.
            max_length: tokens of prompt, text and answer together.

        Raises:
            UserError: for a model that cannot be loaded or trained so, or whose answers cannot be scored.
        """
        tokenizer = load_tokenizer(
            model_args.model_name_or_path, model_args.model_revision, model_args.trust_remote_code
        )
        model = load_generator(model_args, tokenizer, complete=generation_args.eval_only)
        check_scorable(model, generation_args.decoding, length_limit(max_length, tokenizer, model.config))
        if model_args.use_peft:
            model = add_lora(model, model_args)
        if model_args.freeze_layers:
            freeze_layers(model, model_args.freeze_layers)
        generator = cls(model, tokenizer, model_args, task, Generation.choose(generation_args, task), max_length)
        model.generation_config.eos_token_id = generator.form.prompt.end
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        generator._tell_exactness()
        return generator

    @classmethod
    def load(cls, folder: str, arguments: dict[str, Any], task: Task) -> LabelGenerator:
        """The model of a finished run.

        Args:
            folder: of the run.
            arguments: its run_args.json.
            task: its task.json.

        Raises:
            UserError: for a model that cannot be loaded.
        """
        model_args, adapted = finished_model_args(cls.model_arguments, folder, arguments)
        tokenizer = load_tokenizer(folder)
        model = load_generator(model_args, tokenizer)
        if adapted:
            model = load_adapter(model, folder)
        return cls(model, tokenizer, model_args, task, Generation.load(folder), task.max_length)

    def encode(self, examples: Examples) -> datasets.Dataset:
        """Tokens of prompts, texts and answers as the trainer takes them, with `length` and `full_length`; cached."""
        form = self.form
        parts = (form.prompt, form.answers, form.label_text.columns, form.budget, form.long_texts)
        return encode_conversations(examples, self.tokenizer, *parts)

    def collator(self, on_gpu: bool) -> AnswerCollator:
        """What makes a batch of encoded rows."""
        return AnswerCollator(self.model.config, on_gpu)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts by themselves, as `encode` has them before they are cut."""
        return text_ids(texts, self.tokenizer)

    def count_cut(self, token_ids: list[list[int]]) -> int:
        """How many texts, tokenised, are longer than what prompt and answer leave for them."""
        return sum(len(ids) > self.form.budget for ids in token_ids)

    def predict(self, texts: list[str], batch_size: int) -> Predictions:
        """Answers and probabilities for texts, in their order, the same in all processes.

        Args:
            texts: `[N]`, normalised as the task says.
            batch_size: texts predicted at a time by one process.

        Returns:
            `Predictions` with row numbers for ids; NaN where the model gives no number.
        """
        predictions = self.answer(self.tokenize(texts), batch_size)
        predictions.texts = texts
        return predictions

    def answer(self, token_ids: list[list[int]], batch_size: int, coverage: float | None = None) -> Predictions:
        """As `predict`, of texts that are tokenised already.

        Args:
            token_ids: of `tokenize`.
            batch_size: texts predicted at a time by one process.
            coverage: probability of the answers to reach; left out: the generation's.

        Returns:
            `Predictions`, whose figures are the coverage reached, the number of texts that were cut and, with free
            decoding, of words that are no label.
        """
        was_training = self.model.training
        self.model.eval()
        answers = answer_texts(self.model, self.form, token_ids, batch_size, self.compute_dtype, coverage)
        self.model.train(was_training)
        self.unknown_words = answers.unknown
        figures = {
            "coverage": float(answers.covered.mean()),
            "texts_cut": self.count_cut(token_ids),
        }
        if self.form.generation.decoding == "free":
            figures["unknown_words"] = answers.unknown.total()
        return Predictions(
            self.task.labels,
            list(map(str, range(len(token_ids)))),
            probabilities=answers.probabilities,
            decoded=answers.decoded,
            figures=figures,
        )

    def _tell_exactness(self) -> None:
        """Say where probabilities that were asked for as exact ones may be estimates."""
        generation, branches = self.form.generation, 2 ** len(self.task.labels)
        if generation.coverage == 1 and generation.max_nodes < branches:
            log(
                f"WARNING: --coverage 1 with --max_nodes {generation.max_nodes}: probabilities are exact for the texts "
                f"that need no more branches, and estimates for the others; --max_nodes {branches} is enough for all"
            )

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than the model reads."""
        return self.count_cut(self.tokenize([text])) > 0

    def check(self) -> None:
        """There is no new head that might be frozen or quantised."""

    def preflight_rows(self) -> list[list[str]]:
        """What the preflight says of this approach: names and texts."""
        prompt, answers, generation = self.form.prompt, self.form.answers, self.form.generation
        which = f"in the order {', '.join(generation.order)}; {generation.no_label!r} for no label"
        if self.task.single_label:
            which = "exactly one label each"
        return [
            ["prompt tokens", f"{len(prompt.head)} before a text, run once for all rows, and {len(prompt.tail)} after"],
            ["answers", f"up to {answers.longest} tokens, {which}"],
        ]

    def show_prompt(self, text: str, labels: np.ndarray) -> str:
        """The prompt of a text, and in brackets its answer, the labels of a 0/1 row `[L]`."""
        prompt, form = self.form.prompt, self.form
        answer = self.tokenizer.decode(form.answers.write(labels[form.label_text.columns] >= 0.5))
        return f"{prompt.before}{text}{prompt.after}[{answer}]"

    def as_text(self, row: np.ndarray) -> str:
        """The labels of a 0/1 row `[L]` as an answer."""
        return self.form.label_text.write(row)

    def save(self, folder: str | Path) -> None:
        """Write what a prediction needs besides what Trainer saves."""
        self.tokenizer.save_pretrained(folder)
        self.form.generation.save(folder)

    def merge(self, adapter_folder: str | Path, merged_folder: str | Path, dtype: str | None = None) -> None:
        """Write a plain model with an adapter merged in.

        Args:
            adapter_folder: where the adapter is.
            merged_folder: where the model is saved.
            dtype: of its weights; left out: 16 bit, as fits the training.
        """
        dtype = dtype or dtype_of_merged(self.model_args.dtype)
        base = load_generator(to_merge(self.model_args, dtype), self.tokenizer, on_cpu=True)
        merge_adapter(base, dtype, self.tokenizer, adapter_folder, merged_folder)

    @staticmethod
    def card_facts(folder: str | Path, arguments: dict[str, Any], task: Task) -> dict[str, Any]:
        """What the model card says of this approach.

        Args:
            folder: of the run.
            arguments: its run_args.json.
            task: its task.json.
        """
        made = "used as it is" if arguments["eval_only"] else "taught with LoRA" if arguments["use_peft"] else "taught"
        tokenizer = load_tokenizer(str(folder))
        form = build_format(Generation.load(folder), task.labels, tokenizer, task.max_length, task.single_label)
        return {
            "made": f"{made} to write labels",
            "pipeline_tag": "text-generation",
            "use_template": "model_card_use_generator.md.jinja",
            "loss_description": "cross-entropy of the answers' tokens",
            "prompt": form.prompt,
            "longest_answer": form.answers.longest,
        }
