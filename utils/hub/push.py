"""The Hub: a finished run pushed once and whole.

    python -m utils.hub push outputs/run --hub_model_id user/name
    python -m utils.hub push outputs/run --hub_model_id user/name --hub_private_repo True

What is pushed: model or adapter with its head, tokenizer, task, thresholds, prompt, scores, pictures, and a card made
for the Hub. What is not: validation predictions and report.html, which quote texts of the data; checkpoints, merged/,
and paths of this machine. The token is that of `hf auth login` or of the environment variable HF_TOKEN.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.log import log
from utils.core.parser import option, script
from utils.data.task import TASK_FILE
from utils.doctor.finding import Diagnosis
from utils.hub.errors import PATIENCE, hub_errors, with_retries
from utils.hub.names import ANY_NAME, is_hub_name, repository_name
from utils.models.approaches import ADAPTER_FILE
from utils.runs.folder import (
    ARGUMENTS_FILE,
    CARD_FILE,
    DATA_PATHS,
    MANIFEST_FILE,
    RUN_FILES,
    load_arguments,
    load_results,
    load_task,
    matches,
)
from utils.runs.manifest import check_files, describe_files, run_files

if TYPE_CHECKING:  # loading it takes torch
    from transformers import TrainingArguments

    from utils.core.arguments import ModelArguments

# What the Hub puts into a new repository.
OF_A_NEW_REPOSITORY = {".gitattributes", CARD_FILE, "LICENSE"}


@dataclass
class PushArguments:
    """Where a run is pushed to."""

    hub_model_id: str | None = option(None, "repository on the Hub, user/name; left out: the folder's name, as yours")
    hub_private_repo: bool | None = option(
        None, "make the new repository private, or public; left out: as the account has it for new ones"
    )
    hub_token: str | None = field(
        default=None, repr=False, metadata={"help": "token; left out, as it should be: of `hf auth login` or HF_TOKEN"}
    )
    base_model: str | None = option(
        None, "name on the Hub of an adapter's base model, where it was trained from a local copy"
    )
    skip_checks: bool = option(False, "push a run although its files are not those it was finished with")

    def __post_init__(self):
        if self.hub_model_id and not ANY_NAME.fullmatch(self.hub_model_id):
            raise UserError(f"--hub_model_id {self.hub_model_id}: must have the form user/name")
        self.hub_token = (self.hub_token or "").strip() or None

    @property
    def visibility(self) -> str:
        """Who will see the repository, in words."""
        if self.hub_private_repo is None:
            return "private or public as the account has it for new repositories (--hub_private_repo chooses)"
        return "private" if self.hub_private_repo else "public"

    def command(self, folder: str | Path) -> str:
        """The command that pushes a run's folder so, without the token."""
        words = ["python", "-m", "utils.hub", "push", str(folder)]
        for name in ("hub_model_id", "hub_private_repo", "base_model"):
            value = getattr(self, name)
            words += [f"--{name}", str(value)] if value is not None else []
        words += ["--skip_checks"] if self.skip_checks else []
        return f"`{shlex.join(words)}`"


def hide_token(token: str | None) -> None:
    """Take a token out of the command line of this process, which trackers write down."""
    if token:
        sys.argv[:] = [word.replace(token, "<HUB_TOKEN>") for word in sys.argv]


# Before and during a training


def take_push(
    training_args: TrainingArguments, model_args: ModelArguments, self_contained: bool
) -> PushArguments | None:
    """Take what Trainer would push with out of its arguments: it would push unfinished checkpoints, and would pickle
    the token into them.

    Args:
        training_args: Trainer's arguments, which push nothing afterwards.
        model_args: which model was trained.
        self_contained: whether the model will be saved whole, so that the run can do without the one it began with.

    Returns:
        what `push_run` wants, None without --push_to_hub.

    Raises:
        UserError: for what could not be pushed when the training is done.
    """
    wanted, token = training_args.push_to_hub, training_args.hub_token
    hide_token(token)
    training_args.push_to_hub, training_args.hub_token = False, None
    if not wanted:
        if training_args.hub_model_id:
            raise UserError("--hub_model_id is for --push_to_hub: add it, or leave both out")
        return None
    push = PushArguments(training_args.hub_model_id, training_args.hub_private_repo, token)
    _check_offline(push, training_args)
    if not self_contained and Path(model_args.model_name_or_path).is_dir():
        command = replace(push, base_model="NAME").command(str(training_args.output_dir))
        raise UserError(
            f"--push_to_hub: the run would need {model_args.model_name_or_path}, which is on this machine only: start "
            f"from a model on the Hub, or push afterwards by {command}"
        )
    return push


def _check_offline(push: PushArguments, training_args: TrainingArguments) -> None:
    """Refuse a push that could not work, as far as that can be known without asking the Hub."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import disable_progress_bars

    if training_args.disable_tqdm:
        disable_progress_bars()
    later = f"or push afterwards by {push.command(str(training_args.output_dir))}"
    if HF_HUB_OFFLINE:
        raise UserError(f"--push_to_hub, but HF_HUB_OFFLINE is set: unset it, {later}")
    if not (push.hub_token or get_token()):
        raise UserError(f"--push_to_hub needs a token: log in by `hf auth login`, set HF_TOKEN, {later}")
    repository_name(str(training_args.output_dir), push.hub_model_id)


def check_push(push: PushArguments) -> None:
    """Ask the Hub whether it knows the token, before hours of training; a Hub that cannot be reached now is no reason
    to stop.

    Raises:
        UserError: for a token that the Hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        with hub_errors("--push_to_hub", push.hub_token):
            user = HfApi(token=push.hub_token).whoami()["name"]
        log(f"will push as {user}, {push.visibility}")
    except UserError as error:
        if "(401)" in str(error):
            raise
        log(f"WARNING: {error}. The training goes on; it will be tried again at its end.")


# Pushing


def push_run(folder: str | Path, push: PushArguments) -> str:
    """Push a finished run, in one commit; what the repository held of an earlier run is taken away in it.

    Args:
        folder: of the run; it is not changed.
        push: where to.

    Returns:
        address of the repository.

    Raises:
        UserError: where something is in the way, or the Hub refuses; the message says how to push later.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not push.skip_checks:
        check_files(folder)
    if load_arguments(folder).get("exported"):
        raise UserError(f"{folder} is an exported model, no run: push it by `hf upload NAME {folder}`")
    content: dict[str, Any] = _changed_files(folder, push)
    name = repository_name(folder, push.hub_model_id)
    log(f"pushing {folder} to {name}, {push.visibility}")
    trying = f"pushing {folder} to {name}", push.hub_token, push.command(folder)
    with hub_errors(*trying):
        api = HfApi(token=push.hub_token)
        name = with_retries(lambda: api.create_repo(name, private=push.hub_private_repo, exist_ok=True)).repo_id
        there = with_retries(lambda: api.model_info(name, timeout=PATIENCE))
        files = {file.rfilename for file in there.siblings or ()}
        if not files <= OF_A_NEW_REPOSITORY and TASK_FILE not in files:
            raise UserError(f"{name} on the Hub holds files but no run: choose another --hub_model_id")
        if push.hub_private_repo and not there.private:
            raise UserError(f"{name} exists and is public: make it private on its page, or choose another name")
    try:  # what goes wrong here is not the Hub's doing
        content[CARD_FILE] = _hub_card(folder, content, name, push).encode()
        content |= {path: Path(folder, path) for path in _files(folder) if path not in content}
        content[MANIFEST_FILE] = (json.dumps(describe_files(content), indent=2) + "\n").encode()
        operations: list[Any] = [CommitOperationAdd(path, value) for path, value in sorted(content.items())]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be pushed, as it cannot be read: {error}") from error
    operations += [CommitOperationDelete(path) for path in sorted(files - set(content)) if _is_pushed(path)]
    with hub_errors(*trying):
        with_retries(lambda: api.create_commit(name, operations, commit_message="A finished run"))
    log(f"pushed {len(content)} files to {api.endpoint}/{name} ({'private' if there.private else 'public'})")
    return f"{api.endpoint}/{name}"


def _files(folder: str | Path) -> list[str]:
    return [path for path in run_files(folder) if _is_pushed(path)]


def _is_pushed(path: str) -> bool:
    return matches(path, [file for file in RUN_FILES if file.pushed])


def _base_model(folder: str | Path, arguments: dict[str, Any], push: PushArguments) -> tuple[str | None, bool]:
    """Name of the base model on the Hub, and whether the run needs it to be loaded.

    Raises:
        UserError: where it is needed and known by a local path only.
    """
    from utils.models.loading import EMBEDDED_MINILM, EMBEDDED_MINILM_ON_HUB  # loads transformers

    name = arguments["model_name_or_path"]
    needed = Path(folder, ADAPTER_FILE).exists() or bool(arguments.get("eval_only"))
    if push.base_model or name == EMBEDDED_MINILM:
        return push.base_model or EMBEDDED_MINILM_ON_HUB, needed
    if is_hub_name(name):
        return name, needed
    if needed:
        raise UserError(
            f"the run in {folder} needs {name}, which is on this machine only: name the same model on the Hub by "
            "--base_model"
        )
    return None, needed


def without_paths(arguments: dict[str, Any]) -> dict[str, Any]:
    """A run's run_args.json without the folders of this machine: of data and models the last part of the path."""
    changed = dict(arguments)
    for name in (*DATA_PATHS, "dataset_name", "model_name_or_path"):
        value = changed.get(name)
        if isinstance(value, list):
            changed[name] = [Path(one).name for one in value]
        elif value and (name in DATA_PATHS or not is_hub_name(value)):
            changed[name] = Path(value).name
    return changed


def _changed_files(folder: str | Path, push: PushArguments) -> dict[str, bytes]:
    """`{name: content}` of the files that go without the paths of this machine."""
    arguments = load_arguments(folder)
    base, needed = _base_model(folder, arguments, push)
    arguments = without_paths(arguments)
    if base:
        arguments["model_name_or_path"] = base
    changed = {ARGUMENTS_FILE: arguments}
    if needed and Path(folder, ADAPTER_FILE).exists():
        changed[ADAPTER_FILE] = read_json(Path(folder, ADAPTER_FILE)) | {"base_model_name_or_path": base}
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in changed.items()}


def _hub_card(folder: str | Path, content: dict[str, bytes], name: str, push: PushArguments) -> str:
    """The card as the repository called `name` shows it, with its scores as the Hub's model-index."""
    from huggingface_hub import ModelCard

    from utils.report.card import present_pictures, render_card  # loads matplotlib

    was, now = load_arguments(folder), json.loads(content[ARGUMENTS_FILE])
    results = load_results(folder)
    text = render_card(
        folder,
        now,
        load_task(folder),
        results,
        Diagnosis.load(folder),
        name=name.split("/")[-1],
        address=name,
        pictures=present_pictures(folder),
        on_hub=True,
    )
    card = ModelCard(text)
    card_data: Any = card.data  # takes any key of a card's head
    card_data.base_model = _base_model(folder, was, push)[0]
    card_data.model_name = name.split("/")[-1]
    files = " and ".join(now.get("train_file") or [])
    data = now.get("dataset_name") or now.get("validation_file") or files or "own data"
    on_hub = now.get("dataset_name") and was["dataset_name"] == now["dataset_name"]
    card_data.eval_results = _eval_results(results, data, now["dataset_name"] if on_hub else "custom")
    return str(card)


def _eval_results(results: dict[str, Any], data: str, data_type: str) -> list[Any]:
    """The scores of all_results.json for the model-index, on data with a name and a type."""
    from huggingface_hub import EvalResult

    from utils.scoring.scores import (
        ACCURACY,
        AT_HALF,
        DECODED,
        LIKELIEST,
        OF_PREDICTIONS,
        OF_PROBABILITIES,
        TUNED,
        is_likeliest,
        shown_scores,
    )

    metrics = {name.removeprefix("eval_"): value for name, value in results.items()}
    first = LIKELIEST if is_likeliest(metrics) else "at 0.5"
    titles = {AT_HALF: first, TUNED: "thresholds tuned, cross-fitted", DECODED: "of the answers"}
    scores = [
        (score.name, f"{score.name}{kind}", f"{score.title}, {how}")
        for kind, how in titles.items()
        for score in shown_scores(OF_PREDICTIONS, ACCURACY in metrics)
    ]
    scores += [(score.name, score.name, score.title) for score in OF_PROBABILITIES]
    return [
        EvalResult(
            task_type="text-classification",
            task_name="text classification" if ACCURACY in metrics else "multi-label text classification",
            dataset_type=data_type,
            dataset_name=data,
            dataset_split="validation",
            metric_type="f1" if score.startswith("f1") else score,
            metric_name=title,
            metric_value=results[f"eval_{name}"],
        )
        for score, name, title in scores
        if f"eval_{name}" in results
    ]


@dataclass
class HubArguments(PushArguments):
    """What to do: push a run's folder."""

    words: list[str] = option(None, "push FOLDER; the flag itself may be left out")

    def __post_init__(self):
        super().__post_init__()
        if len(self.words or []) != 2 or self.words[0] != "push":
            raise UserError("write python -m utils.hub push FOLDER, then flags")


@script(__doc__, [HubArguments], words="words")
def main(args: HubArguments) -> None:
    """Push the run folder named."""
    hide_token(args.hub_token)
    push_run(args.words[1], args)
