"""A model with a classification head: one logit for each label, or one for each label's question."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from scipy.special import expit, softmax
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils.core.arguments import ModelArguments, QuestionArguments
from utils.core.errors import UserError
from utils.core.files import read_json_object
from utils.core.processes import this_process
from utils.core.progress import Progress, off_with_transformers
from utils.data.examples import Examples
from utils.data.task import Task
from utils.models.adapters import (
    add_lora,
    bring_base,
    dtype_of_merged,
    load_adapter,
    merge_adapter,
    to_merge,
)
from utils.models.approaches import BASE_FOLDER, finished_model_args
from utils.models.encoding import Collator, encode, length_limit, longest_first, tokenize
from utils.models.head import (
    HEAD_PARTS,
    check_pooling,
    compute_without_autocast,
    get_head,
    pool_mean,
    pool_windows,
)
from utils.models.layers import freeze_layers
from utils.models.loading import EMBEDDED_MINILM, keep_gradients, load_pretrained, load_tokenizer
from utils.models.parameters import parameter_kind, quantized_modules, without_adapter
from utils.models.precision import quantization
from utils.models.questions import ONE_LOGIT, Questions, ask_labels, longest_question, start_from_yes_and_no
from utils.models.sharding import is_sharded, ready_to_shard
from utils.scoring.predictions import Predictions

# Modules that are not quantised, as transformers takes them: names, and patterns for those inside another module, as
# BERT's pooler.
NOT_QUANTISED = [*HEAD_PARTS, *(rf".*\.{part}" for part in HEAD_PARTS)]
# Texts tokenised at a time for a prediction.
TEXTS_AT_A_TIME = 1000


class Classifier:
    """A model with a classification head, its tokenizer and its labels.

    Encoders pool their first token, so their tokenizer is made to pad on the right. Decoders pool their last token that
    is not the pad token, on either side of the padding. With `--pooling mean` both pool all tokens but the padding.

    Args:
        model: with a head for the task's labels; with LoRA adapters where it has them.
        tokenizer: of the model.
        model_args: how the model was loaded.
        task: labels and text options.
        max_length: tokens of a text asked for; the model may take less.
        questions: how it is asked for its labels one by one, if it is.
    """

    model_arguments: ClassVar[type[ModelArguments]] = ModelArguments
    # What a prediction needs from the run's folder besides weights.
    files: ClassVar[tuple[str, ...]] = ("tokenizer_config.json",)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_args: ModelArguments,
        task: Task,
        max_length: int,
        questions: Questions | None = None,
    ):
        self.model, self.tokenizer, self.model_args, self.task = model, tokenizer, model_args, task
        self.questions = questions
        self.name = model_args.model_name_or_path
        self.max_length = length_limit(max_length, tokenizer, model.config)
        self._leave_room_for_questions()
        if task.long_texts == "windows":
            pool_windows(without_adapter(model), task.window_pooling)
        self.compute_dtype = torch.float32  # of matrix products in `predict`
        self.pools_first_token = get_head(without_adapter(model))[0] == "classifier"  # or the mean, in its place
        if self.pools_first_token:
            tokenizer.padding_side = "right"

    @classmethod
    def new(
        cls, model_args: ModelArguments, task: Task, max_length: int, question_args: QuestionArguments | None = None
    ) -> Classifier:
        """A model to train, with a new head and, where asked for, LoRA adapters.

        Args:
            model_args: which model, in full or with LoRA.
            task: whose labels the head is for.
            max_length: tokens of a text.
            question_args: whether and how it is asked for its labels one by one.

        Raises:
            UserError: for a model that cannot be loaded or trained so.
        """
        questions = None
        if question_args is not None and question_args.ask_labels:
            questions = Questions.asked_for(question_args, task.labels)
        tokenizer = load_tokenizer(
            model_args.model_name_or_path, model_args.model_revision, model_args.trust_remote_code
        )
        model = load_with_head(model_args, task, tokenizer, questions=questions)
        check_pooling(model, model_args.pooling, model_args.attention)
        if question_args is not None and question_args.question_head == "yes_no":
            start_from_yes_and_no(model, tokenizer, model_args)
        if model_args.use_peft:
            model = add_lora(model, model_args)
        if model_args.freeze_layers:
            freeze_layers(model, model_args.freeze_layers)
        return cls(model, tokenizer, model_args, task, max_length, questions)

    @classmethod
    def load(cls, folder: str, arguments: dict[str, Any], task: Task) -> Classifier:
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
        questions = Questions.load(folder) if arguments.get("ask_labels") else None
        model = load_with_head(model_args, task, tokenizer, new_head=adapted, questions=questions)
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False  # keys and values of tokens that nothing follows
        if adapted:
            model = load_adapter(model, folder)
        return cls(model, tokenizer, model_args, task, task.max_length, questions)

    def ask(self, labels: list[str]) -> None:
        """Ask for `labels` `[L]` from now on, untrained ones too; only where there are `questions`."""
        questions: Any = self.questions
        ask_labels(without_adapter(self.model), self.tokenizer, questions, labels)
        self.task = replace(self.task, labels=labels)
        self._leave_room_for_questions()

    def _leave_room_for_questions(self) -> None:
        """Let a text with the longest question behind it have no more positions than the model."""
        if self.questions is not None:
            room = length_limit(sys.maxsize, self.tokenizer, self.model.config)
            self.max_length = min(self.max_length, room - longest_question(without_adapter(self.model)))

    def encode(self, examples: Examples) -> datasets.Dataset:
        """Tokens of examples as the trainer takes them, with `length` and `full_length`; cached."""
        return encode(examples, self.tokenizer, self.max_length, self.task)

    def collator(self, on_gpu: bool) -> Collator:
        """What makes a batch of encoded rows."""
        return Collator(self.tokenizer, on_gpu)

    def predict(self, texts: list[str], batch_size: int) -> Predictions:
        """Probabilities for texts, in their order, the same in all processes.

        The batches, of texts of one length, are dealt out to the processes; each of these holds the whole model. How
        the script was launched makes no difference, nor does the last batch.

        Args:
            texts: `[N]`, normalised as the task says.
            batch_size: texts predicted at a time by one process.

        Returns:
            `Predictions` with row numbers for ids; NaN where the model gives no number.
        """
        state = this_process()
        ids, owner = [], []  # of windows, where texts have several, and the text that each belongs to
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            part = tokenize(texts[start : start + TEXTS_AT_A_TIME], self.tokenizer, self.max_length, self.task)
            for text, row in enumerate(part["input_ids"], start=start):
                windows = row if self.task.long_texts == "windows" else [row]
                ids += [np.array(window, dtype=np.int32) for window in windows]
                owner += [text] * len(windows)
        order = longest_first([len(row) for row in ids])
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        device: Any = state.device  # never None, unlike accelerate's hint
        collate = self.collator(device.type == "cuda")
        # Rows of other processes stay 0, so that the sum over all processes is the whole.
        logits = torch.zeros(len(ids), len(self.task.labels), device=device)
        autocast = torch.autocast(device.type, dtype=self.compute_dtype, enabled=self.compute_dtype != torch.float32)
        bar = Progress("classifying", len(texts), "texts", **off_with_transformers())
        with torch.inference_mode(), autocast, bar:
            for rows in batches[state.process_index :: state.num_processes]:
                batch: Any = collate(
                    [{"input_ids": ids[row], "attention_mask": np.ones_like(ids[row])} for row in rows]
                )
                output = self.model(**batch.to(device)).logits
                logits[torch.as_tensor(rows, device=device)] = output.float()
                bar.update(min(len(rows) * state.num_processes, len(texts) - bar.n))
        if state.num_processes > 1:
            torch.distributed.all_reduce(logits)
        probabilities = self.probabilities(
            _pool(logits.double().cpu().numpy(), np.array(owner), self.task.window_pooling)
        )
        return Predictions(self.task.labels, list(map(str, range(len(texts)))), texts, probabilities=probabilities)

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than the model reads."""
        whole = self.task.long_texts == "windows"
        return not whole and tokenize([text], self.tokenizer, self.max_length)["full_length"][0] > self.max_length

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities `[N, L]` of logits `[N, L]`: of each label by itself, or of a row's one label."""
        return softmax(logits, axis=1) if self.task.single_label else expit(logits)

    def check(self) -> None:
        """Refuse a head that would not be trained as it must.

        Raises:
            UserError: where the head is frozen or quantised.
        """
        name, head = get_head(without_adapter(self.model))
        trainable = {parameter_kind(name) for name, p in self.model.named_parameters() if p.requires_grad}
        if quantized_modules(head):
            raise UserError(f"the head ({name}) is quantised: it must be trained whole, in fp32")
        if "head" not in trainable:
            raise UserError(
                f"the head ({name}) is frozen: it starts with random weights and must be trained "
                "(with LoRA: --lora_task_type SEQ_CLS)"
            )

    def preflight_rows(self) -> list[list[str]]:
        """What the preflight says of this approach: names and texts."""
        name, head = get_head(without_adapter(self.model))
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in head.parameters() if p.requires_grad})
        pooled = "first token" if self.pools_first_token else "last real token"
        if self.model_args.pooling == "mean":
            pooled = "mean of the real tokens"
        if self.model_args.attention == "bidirectional":
            pooled += ", attention in both directions"
        if self.questions is not None:
            pooled = f'last token of each question, as "{self.questions.words(self.task.labels[0])}"'
        return [["head", f"{name}, {'/'.join(dtypes)}, pools the {pooled}"]]

    def as_text(self, row: np.ndarray) -> str:
        """The labels of a 0/1 row `[L]` as a person reads them."""
        return ", ".join(label for label, yes in zip(self.task.labels, row) if yes) or "(none)"

    def save(self, folder: str | Path) -> None:
        """Write what a prediction needs besides what Trainer saves."""
        if self.questions is not None:
            self.questions.save(folder)
        if self.model_args.use_peft and self.model_args.model_name_or_path == EMBEDDED_MINILM:
            bring_base(folder)

    def merge(self, adapter_folder: str | Path, merged_folder: str | Path, dtype: str | None = None) -> None:
        """Write a plain model with an adapter merged in.

        Args:
            adapter_folder: where the adapter is.
            merged_folder: where the model is saved.
            dtype: of its weights; left out: 16 bit, as fits the training.
        """
        dtype = dtype or dtype_of_merged(self.model_args.dtype)
        base = load_with_head(to_merge(self.model_args, dtype), self.task, self.tokenizer, on_cpu=True)
        merge_adapter(base, dtype, self.tokenizer, adapter_folder, merged_folder)

    @staticmethod
    def card_facts(folder: str | Path, arguments: dict[str, Any], task: Task) -> dict[str, Any]:
        """What the model card says of this approach.

        Args:
            folder: of the run.
            arguments: its run_args.json.
            task: its task.json.
        """
        config = Path(folder) / "config.json"  # an adapter's folder has none
        mean_of_its_own = config.is_file() and "classifier_pooling" in read_json_object(config)
        asked = bool(arguments.get("ask_labels"))
        # A model trained in full keeps it in its configuration; an adapter's base knows nothing of it.
        turned = arguments["use_peft"] and arguments["attention"] == "bidirectional"
        return {
            "plain": not asked and not turned and (arguments["pooling"] != "mean" or mean_of_its_own),
            "asked": asked,
            "made": "fine-tuned with LoRA" if arguments["use_peft"] else "fine-tuned",
            "pipeline_tag": "text-classification",
            "use_template": "model_card_use_classifier.md.jinja",
            "loss_description": f"loss {arguments['loss']}, pos_weight {arguments['pos_weight']}",
            "problem_type": f"{'single' if task.single_label else 'multi'}_label_classification",
            "head_parts": HEAD_PARTS,
            "base_folder": BASE_FOLDER if arguments["model_name_or_path"] == EMBEDDED_MINILM else None,
        }


def _pool(logits: np.ndarray, owner: np.ndarray, pooling: str) -> np.ndarray:
    """Logits `[N, L]` of texts from those of their windows `[W, L]`; `owner` `[W]` says whose they are, in order."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    if pooling == "max":
        return np.maximum.reduceat(logits, starts)
    return np.add.reduceat(logits, starts) / np.diff(starts, append=len(owner))[:, None]


def load_with_head(
    model_args: ModelArguments,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    new_head: bool = True,
    on_cpu: bool = False,
    questions: Questions | None = None,
) -> PreTrainedModel:
    """Load a model with a head for the labels of a task.

    The head is in fp32 and never quantised, also where the checkpoint is quantised already. The pad id is set on the
    configuration: decoders pool their last token that is not the pad token.

    Args:
        model_args: which model, in how many bits.
        task: its labels, and whether a text has one of them or any number.
        tokenizer: of the model.
        new_head: whether a head for other labels may be replaced.
        on_cpu: keep quantised weights there too, which go to the GPU otherwise.
        questions: how the labels are asked for one by one, by a head of one logit; None: each has its own.

    Raises:
        UserError: for a model that cannot be loaded, or whose head is not known.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    code = model_args.trust_remote_code
    config = load_pretrained(AutoConfig.from_pretrained, name, revision=revision, trust_remote_code=code)
    config.id2label = dict(enumerate(task.labels if questions is None else ONE_LOGIT))
    config.label2id = {label: i for i, label in config.id2label.items()}
    # Plain transformers' pipelines take softmax or sigmoid by it.
    config.problem_type = f"{'single' if task.single_label else 'multi'}_label_classification"
    config.pad_token_id = tokenizer.pad_token_id
    if model_args.attention == "bidirectional":
        config.is_causal = False  # saved with a model trained in full, and with a merged one
    quantization_config = quantization(model_args)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        # A list of modules to skip replaces the default one, in which RoBERTa's head is missing.
        stored["llm_int8_skip_modules"] = sorted({*(stored.get("llm_int8_skip_modules") or []), *NOT_QUANTISED})
        quantization_config = None
    elif quantization_config is not None:
        quantization_config.llm_int8_skip_modules = NOT_QUANTISED
    model = load_pretrained(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        config=config,
        revision=revision,
        trust_remote_code=code,
        use_safetensors=True,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=quantization_config,
        device_map={"": "cpu"} if on_cpu else None,
        ignore_mismatched_sizes=new_head,
    )
    get_head(model)  # refuses a model whose head is not known
    ready_to_shard(model)
    keep_gradients(model)
    for name, module in model.named_modules():
        if name.split(".")[-1] in HEAD_PARTS:
            if not is_sharded(module):  # else DeepSpeed ZeRO-3 has it
                module.to(torch.float32)
            # 16-bit hidden states meet the fp32 head; under DeepSpeed, which casts the whole model to 16 bit, fp32 ones
            # may meet a 16-bit head.
            module.register_forward_pre_hook(_as_weights)
            compute_without_autocast(module)
    if model_args.pooling == "mean":
        pool_mean(model)
    if questions is not None:
        ask_labels(model, tokenizer, questions, task.labels)
    return model


def _as_weights(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])
