"""What can be set: the arguments of the scripts as dataclasses.

Trainer's own flags are in `utils.training.arguments`.
"""

import math
import re
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trl import ModelConfig

from utils.core.errors import UserError
from utils.core.parser import option
from utils.core.shown import quote

# What the scripts take with one label per text, instead of what `--loss` and `--threshold_strategy` name.
CROSS_ENTROPY, ARGMAX = "cross_entropy", "argmax"


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig` with the defaults of classification: which model, in full or with LoRA, in how many bits."""

    _argument_group_name = "model"

    model_name_or_path: str = option(
        None, "hub name or folder of the model (needed); embedded-minilm is the one of requirements-quickstart.txt"
    )
    dtype: str | None = option(
        None,
        "weights that are not 4-bit; left out: float32, with LoRA bfloat16 where the machine computes in it",
        choices=["auto", "bfloat16", "float16", "float32"],
    )
    lora_target_modules: list[str] | None = option(
        None, "names of the layers LoRA adapts; left out: all-linear, every linear layer, MLP included"
    )
    lora_task_type: str = option("SEQ_CLS", "SEQ_CLS trains and saves the head beside the adapter")
    use_bnb_nested_quant: bool = option(True, "quantise the quantisation constants of 4-bit weights too")
    use_peft: bool = option(False, "train a LoRA adapter and the head instead of all weights")
    pooling: str | None = option(
        None,
        "what the head sees: the first token (encoders), the last real token (decoders), or the mean over the real "
        "tokens; left out: first or last",
        choices=["first", "last", "mean"],
    )
    attention: str = option(
        "own",
        "what a decoder's tokens see: those before them, as it was trained, or all tokens",
        choices=["own", "bidirectional"],
    )
    freeze_layers: int = option(0, "keep the embeddings and so many of the first layers as they are")
    trust_remote_code: bool = option(
        False, "run the code that the repository of the base model brings; read it first. The code of a run never is"
    )

    def __post_init__(self):
        targets: Any = self.lora_target_modules or "all-linear"  # PEFT's default would be q and v alone
        self.lora_target_modules = targets
        if not self.model_name_or_path:
            raise UserError("give the model to start from by --model_name_or_path")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.freeze_layers < 0:
            raise UserError(f"--freeze_layers {self.freeze_layers}: must be 0 or more")
        if self.freeze_layers and self.use_peft:
            raise UserError(
                "--freeze_layers is for training in full: with --use_peft the layers are frozen as they are"
            )
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout {self.lora_dropout}: must be 0 or more and below 1")
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(str(error)) from error
        # TRL unpacks a list of one; PEFT would take the name for a pattern of the whole path.
        if self.lora_target_modules != "all-linear" and str(self.lora_target_modules).isidentifier():
            self.lora_target_modules = [str(self.lora_target_modules)]
        if isinstance(self.lora_target_modules, str):
            try:
                re.compile(self.lora_target_modules)
            except re.error as error:
                raise UserError(f"--lora_target_modules {self.lora_target_modules} is no pattern: {error}") from error


@dataclass
class GeneratorModelArguments(ModelArguments):
    """The same for a language model that writes labels: there is no head, and nothing to pool."""

    lora_task_type: str = option("CAUSAL_LM", "kind of model that LoRA is put on", choices=["CAUSAL_LM"])
    pooling: str | None = field(default=None, init=False)
    attention: str = field(default="own", init=False)


@dataclass
class DataArguments:
    """Where the rows are and how they are read."""

    _argument_group_name = "data"

    train_file: list[str] | None = option(
        None,
        ".csv, .tsv, .txt (SemEval's format), .jsonl, .parquet or .xlsx, packed as .gz or .zip or not; the rows of "
        "several files are put together",
    )
    validation_file: str | None = option(
        None, "likewise; left out: --validation_fraction of the training rows are held out"
    )
    validation_fraction: float = option(0.1, "share of the training rows to hold out, near-duplicates kept together")
    dataset_name: str | None = option(None, "data set on the hub, or a local folder of Parquet files")
    dataset_config: str | None = option(None, "configuration of the data set")
    dataset_revision: str | None = option(None, "revision of the data set, for instance refs/convert/parquet")
    train_split: str = option("train", "split of the data set to train on")
    validation_split: str | None = option(None, "split to validate on; left out: see --validation_fraction")
    num_folds: int | None = option(
        None, "deal all rows, those for validation too, out to so many folds; train on all but one"
    )
    fold: int | None = option(None, "number of the fold to validate on, from 0")
    drop_leaks: bool = option(
        False,
        "leave out training rows that are near-duplicates of given validation rows, which stay as they are, so that "
        "scores remain comparable",
    )
    id_column: str | None = option(None, "left out: found by its name; row numbers without one")
    text_column: list[str] | None = option(
        None, "one column, or several to join, as title body; left out: found by its name, or the only column of texts"
    )
    text_separator: str = option("\\n", "what stands between the cells of several --text_column")
    label_columns: list[str] | None = option(
        None, "the 0/1 columns, or one column with a list of labels; left out: every 0/1 column"
    )
    unknown_labels: bool = option(
        False, "take label cells that are blank or -1 for not annotated: they count neither in the loss nor in scores"
    )
    soft_labels: bool = option(
        False,
        "take label cells between 0 and 1 for shares, of annotators or a teacher's: they are the targets of the loss; "
        "scores take those of 0.5 or more for true",
    )
    weight_column: str | None = option(
        None, "column of the rows' weights in the loss; scores and validation rows are not weighted"
    )
    label_delimiter: str | None = option(None, "what divides the names in a label list; left out: comma, ; or |")
    label_names: str | None = option(
        None, "file with the name of a label in each line, that of number 0 first, where label cells hold numbers"
    )
    column_names: list[str] | None = option(None, "names of the columns of files that have no header")
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells; left out: none for .txt, else standard", choices=["standard", "none"]
    )
    csv_separator: str | None = option(
        None, "what stands between cells, tab for a tab; left out: by the file's name, or what its rows agree on"
    )
    excel_sheet: str | None = option(None, "sheet of Excel workbooks; left out: the first")
    normalize_users: bool = option(False, "replace mentions by @user (as the Twitter-RoBERTa models were trained)")
    normalize_urls: bool = option(False, "replace links by http")
    task: str = option(
        "auto",
        "whether a text has any number of labels, or exactly one; auto: one where each of 100 rows or more has one",
        choices=["auto", "multi_label", "single_label"],
    )
    max_length: int = option(
        256, "tokens of a text that the model sees; with a label generator of prompt, text and answer together"
    )
    long_texts: str = option(
        "cut",
        "what is done with longer texts: cut their end off, keep beginning and end (middle), or read them in windows "
        "of --max_length, which a label generator cannot",
        choices=["cut", "middle", "windows"],
    )
    window_pooling: str = option("mean", "how the logits of a text's windows become one", choices=["mean", "max"])
    window_overlap: int = option(32, "tokens that a window shares with the one before it")
    max_train_samples: int | None = option(None, "take the first so many training rows, for a dry run")
    max_eval_samples: int | None = option(None, "take the first so many validation rows, for a dry run")

    def __post_init__(self):
        if isinstance(self.train_file, str):
            self.train_file = [self.train_file]
        if len(set(self.train_file or [])) < len(self.train_file or []):
            raise UserError(f"--train_file {' '.join(self.train_file or [])}: a file is named twice")
        if self.train_file and self.dataset_name:
            raise UserError("give the training data, either by --train_file or by --dataset_name")
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"--validation_fraction {self.validation_fraction}: must lie between 0 and 1")
        if (self.num_folds is None) != (self.fold is None):
            raise UserError("--num_folds and --fold belong together: give both")
        if self.num_folds is not None and self.fold is not None and not 0 <= self.fold < self.num_folds >= 2:
            raise UserError(
                f"--num_folds {self.num_folds} --fold {self.fold}: there must be 2 or more folds, numbered from 0"
            )
        if self.label_delimiter == "":
            raise UserError("--label_delimiter is empty: leave it out, or name a delimiter")
        fits = 0 <= self.window_overlap < self.max_length - 2  # special tokens stand around each window
        if self.long_texts == "windows" and not fits:
            raise UserError(f"--window_overlap {self.window_overlap}: must be 0 or more, and less than --max_length")
        self.csv_separator = as_separator(self.csv_separator)
        check_column_names(self.column_names)
        self.text_separator = self.text_separator.replace("\\n", "\n").replace("\\t", "\t")
        for name in ("max_length", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")


def as_separator(value: str | None) -> str | None:
    """What `--csv_separator` names: one character; a tab by its name, as shells make it hard to type.

    Raises:
        UserError: for anything else.
    """
    value = "\t" if value in ("tab", "\\t") else value
    if value is not None and (len(value) != 1 or value in '"\r\n'):
        raise UserError(f"--csv_separator {value}: give one character, or tab")
    return value


def check_column_names(names: list[str] | None) -> None:
    """Refuse `--column_names` that are empty or stand twice.

    Raises:
        UserError: for the first such name.
    """
    for name in names or []:
        if not name.strip() or (names or []).count(name) > 1:
            raise UserError(f'--column_names: "{name}" is empty or stands twice: give each column a name of its own')


@dataclass
class LossArguments:
    """What the training minimises."""

    _argument_group_name = "loss"

    loss: str = option(
        "bce",
        "binary cross-entropy (with one label per text cross-entropy), focal or asymmetric loss",
        choices=["bce", "focal", "asl"],
    )
    pos_weight: str = option(
        None,
        "weight of the positive cells: none, sqrt (of negatives / positives), balanced (negatives / positives) or a "
        "number; left out: sqrt with bce, none with the others; with one label per text of each label's rows",
    )
    max_pos_weight: float = option(20.0, "cap of sqrt and balanced weights")
    focal_gamma: float = option(2.0, "focal loss: how much cells that are right already are played down")
    asl_gamma_positive: float = option(0.0, "asymmetric loss: the same for positive cells")
    asl_gamma_negative: float = option(4.0, "asymmetric loss: the same for negative cells")
    asl_clip: float = option(0.05, "asymmetric loss: negatives with a probability below this count nothing")

    def __post_init__(self):
        if not self.max_pos_weight >= 1:
            raise UserError(f"--max_pos_weight {self.max_pos_weight}: must be 1 or more")
        for name in ("focal_gamma", "asl_gamma_positive", "asl_gamma_negative", "asl_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)}: must be 0 or more")
        if self.asl_clip >= 1:
            raise UserError(f"--asl_clip {self.asl_clip}: a probability below 1")
        if self.pos_weight is None:
            self.pos_weight = "sqrt" if self.loss == "bce" else "none"
        if self.pos_weight not in ("none", "sqrt", "balanced"):
            try:
                weight = float(self.pos_weight)
            except ValueError:
                weight = math.nan
            if not 0 < weight < math.inf:
                raise UserError(f"--pos_weight {self.pos_weight}: give none, sqrt, balanced or a number above 0")

    def suit(self, single_label: bool, soft_labels: bool = False) -> None:
        """Take the loss for one label per text where that is the task.

        Args:
            single_label: whether each text has one label.
            soft_labels: whether label cells are shares.

        Raises:
            UserError: for a loss that is for yes and no.
        """
        if soft_labels and self.loss not in ("bce", CROSS_ENTROPY):
            raise UserError(
                f"--loss {self.loss} is for yes and no, and --soft_labels for shares: leave one of them out"
            )
        if single_label:
            if self.loss not in ("bce", CROSS_ENTROPY):
                raise UserError(
                    f"--loss {self.loss} is for yes and no of each label, and each text has one label: leave it out, "
                    "or pass --task multi_label"
                )
            self.loss = CROSS_ENTROPY


@dataclass
class GenerationArguments:
    """How labels are asked for, written and scored."""

    _argument_group_name = "label generation"

    prompt_template: str | None = option(
        None, "file with a Jinja template of the prompt, which may use text, labels, no_label and chat"
    )
    label_order: str = option(
        "columns", "order in which labels are written", choices=["columns", "frequent_first", "rare_first"]
    )
    decoding: str = option(
        "constrained", "decode over valid answers only, or freely, for comparison", choices=["constrained", "free"]
    )
    coverage: float = option(
        0.9, "probability of the answers to reach for the labels' probabilities; the rest is estimated, 1 is exact"
    )
    eval_coverage: float = option(0.9, "the same for the evaluations during training, which only compare epochs")
    max_nodes: int = option(
        24, "branches of the tree of answers to look at for a row at most; 2^labels are enough for all"
    )
    eval_only: bool = option(False, "score the model as it is (zero-shot) instead of training it")

    def __post_init__(self):
        if self.prompt_template and not Path(self.prompt_template).is_file():
            raise UserError(f"--prompt_template {self.prompt_template} cannot be read: no such file")
        for name in ("coverage", "eval_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name)}: must lie between 0 and 1")
        if self.max_nodes < 1:
            raise UserError(f"--max_nodes {self.max_nodes}: must be 1 or more")


@dataclass
class QuestionArguments:
    """One question per label instead of one column of the head."""

    _argument_group_name = "one question per label"

    ask_labels: bool = option(
        False, "put a short question for each label behind the text, all in one pass, and share one logit's head"
    )
    question: str = option("{label}?", "words of a label's question; {label} stands for its name or description")
    label_descriptions: str | None = option(None, "YAML file with lines `label: description`, for the questions")
    question_head: str = option(
        "linear",
        "how the shared head starts: at random, or as yes minus no of the language head",
        choices=["linear", "yes_no"],
    )
    labels_at_once: int = option(64, "labels asked for in one pass; more take several passes over the text")

    def __post_init__(self):
        if not self.ask_labels:
            changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
            if changed:
                raise UserError(f"--{changed[0]} is for --ask_labels: add it, or leave both out")
        if "{label}" not in self.question:
            raise UserError(f'--question "{self.question}" must hold {{label}}, where the name of the label goes')
        if self.labels_at_once < 1:
            raise UserError(f"--labels_at_once {self.labels_at_once}: must be 1 or more")


@dataclass
class ThresholdArguments:
    """How probabilities become yes and no."""

    _argument_group_name = "thresholds"

    threshold_strategy: str = option(
        "calibrated",
        "0.5; one threshold for all labels; each label's own, shrunk towards that one; or each label's own, shrunk "
        "towards what its calibrated probabilities call for",
        choices=["fixed", "global", "per_label", "calibrated"],
    )
    best_by: str = option(
        "f1_macro",
        "the score that thresholds are chosen for, and that runs are ranked by; checkpoints too, but for macro-F1 by "
        "mAP. Thresholds play no part in roc_auc_macro and are chosen for macro-F1 then",
        choices=["f1_macro", "f1_micro", "f1_samples", "jaccard", "exact_match", "roc_auc_macro"],
    )
    threshold_shrinkage: float | None = option(
        None,
        "positive validation rows at which a label's own threshold weighs as much as the other (left out: 20 for "
        "per_label, 100 for calibrated)",
    )

    def __post_init__(self):
        if self.threshold_shrinkage is not None and not 0 <= self.threshold_shrinkage < math.inf:
            raise UserError(f"--threshold_shrinkage {self.threshold_shrinkage}: must be 0 or more")

    def suit(self, single_label: bool) -> None:
        """With one label per text the likeliest is given, so that there are no thresholds to choose."""
        if single_label:
            self.threshold_strategy, self.threshold_shrinkage = ARGMAX, None


def seconds_of(limit: str) -> float:
    """The seconds of `--time_limit`: 90s, 25m, 1h30m.

    Raises:
        UserError: for other words, and for none.
    """
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    parts = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", limit.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in parts.groups()) if parts else (0.0, 0.0, 0.0)
    if not hours + minutes + seconds > 0:
        raise UserError(f"--time_limit {quote(limit)}: write 90s, 25m or 1h30m")
    return 3600 * hours + 60 * minutes + seconds


@dataclass
class RunArguments:
    """What happens in the output folder."""

    _argument_group_name = "run"

    preflight_only: bool = option(False, "print what would be trained, with checks and estimated memory, and stop")
    merge_adapter: bool = option(False, "also write OUTPUT_DIR/merged, a 16-bit model with the adapter merged in")
    overwrite: bool = option(False, "train again in an --output_dir that holds a finished or other run")
    report: bool = option(True, "write pictures and report.html into the folder of the run")
    baseline: bool = option(True, "also train a linear model on TF-IDF, in seconds, whose scores are shown beside")
    keep_checkpoints: bool = option(False, "keep the checkpoint folders of a finished run")
    early_stopping_patience: int | None = option(
        None, "stop after so many evaluations without a better score; left out: never"
    )
    time_limit: str | None = option(
        None,
        "90s, 25m, 1h30m: the training ends early enough for the command to be done by then, with the best checkpoint; "
        "left out: no limit",
    )
    deadline: float | None = field(default=None, init=False)  # by time.monotonic

    def __post_init__(self):
        if self.time_limit is not None:  # counted from here, where the script has just begun
            self.deadline = time.monotonic() + seconds_of(self.time_limit)
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise UserError(f"--early_stopping_patience {self.early_stopping_patience}: must be 1 or more")
