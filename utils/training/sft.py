"""TRL's SFTTrainer, fitted to answers that are lists of labels."""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

from utils.core.parser import option
from utils.models.generator.prompts import IGNORED
from utils.training.arguments import TaskTrainingArguments
from utils.training.batches import LengthGroupedBatches


@dataclass
class GeneratorTrainingArguments(TaskTrainingArguments, SFTConfig):
    """`trl.SFTConfig` with the defaults of this task; what would change prompts, answers or batches is ours."""

    per_device_train_batch_size: int = option(16, "micro-batch of one process")
    per_device_eval_batch_size: int = option(64, "rows scored at a time by one process")
    gradient_checkpointing: bool | None = option(None, "the old name of --activation_checkpointing")
    # Rows come tokenised, with their answers marked, and are neither cut, packed nor shuffled by TRL.
    dataset_kwargs: dict | None = field(default_factory=lambda: {"skip_prepare_dataset": True}, init=False)
    max_length: int | None = field(default=None, init=False)
    model_init_kwargs: dict | None = field(default=None, init=False)
    chat_template_path: str | None = field(default=None, init=False)
    dataset_text_field: str = field(default="text", init=False)
    dataset_num_proc: int | None = field(default=None, init=False)
    eos_token: str | None = field(default=None, init=False)
    pad_token: str | None = field(default=None, init=False)
    truncation_mode: str = field(default="keep_start", init=False)
    shuffle_dataset: bool = field(default=False, init=False)
    packing: bool = field(default=False, init=False)
    packing_strategy: str = field(default="bfd", init=False)
    padding_free: bool = field(default=False, init=False)
    pad_to_multiple_of: int | None = field(default=None, init=False)
    eval_packing: bool | None = field(default=None, init=False)
    completion_only_loss: bool | None = field(default=None, init=False)
    assistant_only_loss: bool = field(default=False, init=False)
    loss_type: str = field(default="nll", init=False)


class LabelTrainer(LengthGroupedBatches, SFTTrainer):
    """SFTTrainer that runs the language head for the answers' tokens only, and scores labels when it evaluates.

    `score_labels` is called with the model at each evaluation, by all processes, and gives metrics.
    """

    def __init__(self, *args, score_labels, **kwargs):
        super().__init__(*args, **kwargs)
        self.score_labels = score_labels
        # SFTTrainer turns the adapters of quantised models into bf16, in which Adam's second moment stands still: a
        # thousandth of it is less than a bf16 can change by. FSDP wants one dtype.
        if getattr(self.model, "is_quantized", False) and not self.is_fsdp_enabled:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy of the answers' tokens over the global batch.

        As SFTTrainer's own, which on a CPU runs the head over all positions, and which leaves out what some models
        (BERT) have between their last hidden state and their output embeddings.
        """
        mode = "train" if self.model.training else "eval"
        labels = inputs.pop("labels")
        # Padded on the left, the answers end together.
        longest = int((labels != IGNORED).sum(dim=1).max())
        outputs = model(**inputs, use_cache=False, logits_to_keep=longest + 1)
        logits, labels = outputs.logits[:, :-1].float(), labels[:, -longest:]
        counted = labels != IGNORED
        losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        loss = losses.sum() / (counted.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean over the processes

        # What SFTTrainer logs, from the sums of each row: answer tokens, right ones, entropy, loss, all tokens.
        with torch.no_grad():
            entropy = torch.zeros_like(losses)
            entropy[counted] = torch.distributions.Categorical(logits=logits[counted]).entropy()
            right = (logits.argmax(dim=-1) == labels) & counted
            rows = [part.sum(dim=1) for part in (counted, right, entropy, losses, inputs["attention_mask"])]
            rows = torch.stack([row.float() for row in rows], dim=1)
        if mode == "eval":
            # Leaves out the rows that only fill up the last batch of several processes.
            self._evaluated += self.accelerator.gather_for_metrics(rows).cpu().double().sum(dim=0)
        else:
            sums = self.accelerator.gather(rows.sum(dim=0, keepdim=True)).sum(dim=0)
            answers, correct, entropy, _, tokens = sums.tolist()
            self._metrics[mode]["mean_token_accuracy"].append(correct / max(answers, 1))
            self._metrics[mode]["entropy"].append(entropy / max(answers, 1))
            self._total_train_tokens += int(tokens)
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Loss and token accuracy, then the labels' scores: added here, early stopping and the trackers see them.

        Loss and accuracy are over all answer tokens of the rows, whatever the batches: Trainer would take the mean of
        the batches' means.
        """
        self._evaluated = torch.zeros(5, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        answers, correct, entropy, loss, _ = self._evaluated.tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = loss / max(answers, 1)
        self._metrics["eval"]["mean_token_accuracy"] = [correct / max(answers, 1)]
        self._metrics["eval"]["entropy"] = [entropy / max(answers, 1)]
        scores = self.score_labels(self.model)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output

    def create_model_card(self, *args, **kwargs):
        """Ours is written when the run is finished."""
