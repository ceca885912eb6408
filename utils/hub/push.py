"""The Hub: a finished run pushed once and whole, and loaded back by its name.

    python -m utils.hub push outputs/run --hub_model_id user/name
    python -m utils.hub push outputs/run --hub_model_id user/name --hub_private_repo True

What is pushed: model or adapter with its head, tokenizer, task, thresholds, prompt, scores, card and pictures. What is
not: validation predictions and report.html, which quote texts of the data; checkpoints, merged/, and paths of this
machine. The token is that of `hf auth login` or of the environment variable HF_TOKEN.
"""

import json
import os
import re
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

from utils.core.errors import UserError, exit_on_user_error
from utils.core.files import read_json
from utils.core.parser import ArgumentParser, option, print_help
from utils.data.task import TASK_FILE, Task
from utils.runs.folder import ADAPTER_FILE, ARGUMENTS_FILE, DATA_PATHS, RESULTS_FILE, load_task

# What a run needs elsewhere. No pickles: nothing that is pulled is run as code.
NEEDED = (
    ADAPTER_FILE,
    "adapter_model*.safetensors*",
    "model*.safetensors*",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.model",  # SentencePiece's
    "chat_template.jinja",
    TASK_FILE,
    ARGUMENTS_FILE,
    "thresholds.json",
    "generation.json",
    RESULTS_FILE,
)
PUSHED = (*NEEDED, "README.md", "pictures/*.png")
# What the Hub puts into a new repository.
OF_A_NEW_REPOSITORY = {".gitattributes", "README.md", "LICENSE"}
NAME = r"[\w-][\w.-]*"
HUB_NAME = re.compile(rf"{NAME}/{NAME}", re.ASCII)
CARD_FOLDER = re.compile(r"^folder = Path\(.*\)  # or where you keep it$", re.MULTILINE)
WHAT_TO_DO = {
    401: "log in anew by `hf auth login`, or set HF_TOKEN to a token that is valid",
    403: "the token may not write there: give it the right to, or choose another --hub_model_id",
    404: "no such repository or account, or the token may not see it: check the name, and log in by `hf auth login`",
    409: "somebody else is changing the repository: try again",
    429: "too many requests: try again in some minutes",
}


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

    def __post_init__(self):
        if self.hub_model_id and not re.fullmatch(rf"({NAME}/)?{NAME}", self.hub_model_id, re.ASCII):
            raise UserError(f"--hub_model_id {self.hub_model_id}: must have the form user/name")
        self.hub_token = (self.hub_token or "").strip() or None


def hide_token(token):
    """Take a token out of the command line of this process, which trackers write down."""
    if token:
        sys.argv[:] = [word.replace(token, "<HUB_TOKEN>") for word in sys.argv]


def take_push(training_args, model_args, self_contained):
    """Take what Trainer would push with out of its arguments: it would push unfinished checkpoints, and would pickle
    the token into them.

    Args:
        self_contained: whether the model will be saved whole, so that the run can do without the one it began with.

    Returns:
        `PushArguments` for `push_run`, None without --push_to_hub.

    Raises:
        UserError: for what could not be pushed when the training is done.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import disable_progress_bars

    hide_token(training_args.hub_token)
    wanted, token = training_args.push_to_hub, training_args.hub_token
    training_args.push_to_hub, training_args.hub_token = False, None
    if not wanted:
        if training_args.hub_model_id:
            raise UserError("--hub_model_id is for --push_to_hub: add it, or leave both out")
        return None
    if training_args.disable_tqdm:
        disable_progress_bars()
    push = PushArguments(training_args.hub_model_id, training_args.hub_private_repo, token)
    later = f"or push afterwards by {_push_command(training_args.output_dir, push)}"
    if HF_HUB_OFFLINE:
        raise UserError(f"--push_to_hub, but HF_HUB_OFFLINE is set: unset it, {later}")
    if not (push.hub_token or get_token()):
        raise UserError(f"--push_to_hub needs a token: log in by `hf auth login`, set HF_TOKEN, {later}")
    _repository_name(training_args.output_dir, push)
    named = replace(push, base_model="NAME")
    if not self_contained and Path(model_args.model_name_or_path).is_dir():
        raise UserError(
            f"--push_to_hub: the run would need {model_args.model_name_or_path}, which is on this machine only: start "
            f"from a model on the Hub, or push afterwards by {_push_command(training_args.output_dir, named)}"
        )
    return push


def check_push(push, log):
    """Ask the Hub whether it knows the token, before hours of training; if it cannot be asked now, so be it.

    Raises:
        UserError: for a token that the Hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        with _told("--push_to_hub", push.hub_token):
            user = HfApi(token=push.hub_token).whoami()["name"]
        log(f"will push as {user}, {_visibility(push)}")
    except UserError as error:
        if "(401)" in str(error):
            raise
        log(f"WARNING: {error}. The training goes on; it will be tried again at its end.")


def push_run(folder, push, log):
    """Push a finished run, in one commit; what the repository held of an earlier run is taken away in it.

    Args:
        folder: of the run; it is not changed.
        push: `PushArguments`.
        log: called with a line of text.

    Returns:
        address of the repository.

    Raises:
        UserError: where something is in the way, or the Hub refuses; the message says how to push later.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    load_task(folder)  # is it a finished run?
    content = _changed_files(folder, push)
    name = _repository_name(folder, push)
    log(f"pushing {folder} to {name}, {_visibility(push)}")
    telling = f"pushing {folder} to {name}", push.hub_token, _push_command(folder, push)
    with _told(*telling):
        api = HfApi(token=push.hub_token)
        name = api.create_repo(name, private=push.hub_private_repo, exist_ok=True).repo_id
        there = api.model_info(name)
        files = {file.rfilename for file in there.siblings}
        if not files <= OF_A_NEW_REPOSITORY and TASK_FILE not in files:
            raise UserError(f"{name} on the Hub holds files but no run: choose another --hub_model_id")
        if push.hub_private_repo and not there.private:
            raise UserError(f"{name} exists and is public: make it private on its page, or choose another name")
    try:  # what goes wrong here is not the Hub's doing
        content["README.md"] = _hub_card(folder, content, name, push).encode()
        content |= {path: Path(folder, path) for path in _files(folder) if path not in content}
        operations = [CommitOperationAdd(path, value) for path, value in sorted(content.items())]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be pushed, as it cannot be read: {error}") from error
    operations += [CommitOperationDelete(path) for path in sorted(files - set(content)) if _is_pushed(path)]
    with _told(*telling):
        api.create_commit(name, operations, commit_message="A finished run")
    log(f"pushed {len(content)} files to {api.endpoint}/{name} ({'private' if there.private else 'public'})")
    return f"{api.endpoint}/{name}"


def local_folder(name):
    """Folder of a run named by its folder or, as user/name, by its repository on the Hub, which is downloaded.

    Raises:
        UserError: for a repository that cannot be downloaded or holds no run.
    """
    from huggingface_hub import snapshot_download

    if Path(name).exists() or not HUB_NAME.fullmatch(str(name)):
        return name
    with _told(f"{name}: no such folder, and loading it from the Hub failed"):
        folder = snapshot_download(str(name), allow_patterns=list(NEEDED))
    try:
        Task.load(folder)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{name} on the Hub is not a run of these scripts: it has no {TASK_FILE} of theirs") from error
    return folder


def _files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in Path(folder).rglob("*") if _is_pushed(str(path.relative_to(folder)))
    )


def _is_pushed(path):
    # fnmatch's stars match slashes too: merged/tokenizer.json is none of ours.
    return any(fnmatch(path, pattern) and path.count("/") == pattern.count("/") for pattern in PUSHED)


def _visibility(push):
    if push.hub_private_repo is None:
        return "private or public as the account has it for new repositories (--hub_private_repo chooses)"
    return "private" if push.hub_private_repo else "public"


def _repository_name(folder, push):
    """Name to push to, by default the folder's.

    Raises:
        UserError: for a name that the Hub does not allow.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = push.hub_model_id or Path(folder).resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"pushing {folder}: {error} Name a repository by --hub_model_id user/name") from error
    return name


def _push_command(folder, push):
    words = ["python", "-m", "utils.hub", "push", str(folder)]
    for name in ("hub_model_id", "hub_private_repo", "base_model"):  # never the token
        value = getattr(push, name)
        words += [f"--{name}", str(value)] if value is not None else []
    return f"`{shlex.join(words)}`"


def _base_model(folder, arguments, push):
    """Name of the base model on the Hub, and whether the run needs it to be loaded.

    Raises:
        UserError: where it is needed and known by a local path only.
    """
    from utils.models.loading import EMBEDDED_MINILM, EMBEDDED_MINILM_ON_HUB

    name = arguments["model_name_or_path"]
    needed = Path(folder, ADAPTER_FILE).exists() or bool(arguments.get("eval_only"))
    if push.base_model or name == EMBEDDED_MINILM:
        return push.base_model or EMBEDDED_MINILM_ON_HUB, needed
    if _is_hub_name(name):
        return name, needed
    if needed:
        raise UserError(
            f"the run in {folder} needs {name}, which is on this machine only: name the same model on the Hub by "
            "--base_model"
        )
    return None, needed


def _is_hub_name(value):
    """Whether `value` has the form of a name on the Hub, and is no folder as seen from here.

    The run may have been trained from another folder: what could be a relative path is not taken for a name, but for
    one of the form folder/folder, which nothing tells from user/name.
    """
    return re.fullmatch(rf"({NAME}/)?{NAME}", value, re.ASCII) is not None and not Path(value).exists()


def _changed_files(folder, push):
    """`{name: content}` of the files that go without the paths of this machine."""
    arguments = read_json(Path(folder, ARGUMENTS_FILE))
    base, needed = _base_model(folder, arguments, push)
    for name in (*DATA_PATHS, "dataset_name", "model_name_or_path"):
        value = arguments.get(name)
        if value and (name in DATA_PATHS or not _is_hub_name(value)):
            arguments[name] = Path(value).name
    if base:
        arguments["model_name_or_path"] = base
    changed = {ARGUMENTS_FILE: arguments}
    if needed and Path(folder, ADAPTER_FILE).exists():
        changed[ADAPTER_FILE] = read_json(Path(folder, ADAPTER_FILE)) | {"base_model_name_or_path": base}
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in changed.items()}


def _hub_card(folder, content, name, push):
    """The run's card with its scores as the Hub's model-index, and the repository's name in place of local paths."""
    from huggingface_hub import EvalResult, ModelCard

    from utils.scoring.evaluation import SUMMARY

    was, now = read_json(Path(folder, ARGUMENTS_FILE)), json.loads(content[ARGUMENTS_FILE])
    results = read_json(Path(folder, RESULTS_FILE))
    path = Path(folder, "README.md")
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {name}\n"
    if CARD_FOLDER.search(text):
        text = CARD_FOLDER.sub(lambda _: f'folder = Path(snapshot_download("{name}"))', text)
        first = "from pathlib import Path\n\n"
        text = text.replace(first, f"{first}from huggingface_hub import snapshot_download\n", 1)
    text = re.sub(r"(?m)^(python make_submission.py --model) .*? (--test_file )", rf"\1 {name} \2", text)
    text = re.sub(r"The most confident mistakes [^\n]*\n\n|`merged/` holds [^`\n]*(`pipeline[^`]*`[^\n]*)?\n", "", text)
    text = re.sub(rf"(?m)^{re.escape(was['model_name_or_path'])} ", f"{now['model_name_or_path']} ", text, count=1)

    card = ModelCard(text)
    card.data.base_model = _base_model(folder, was, push)[0]
    card.data.model_name = name.split("/")[-1]
    titles = {"": "at 0.5", "_tuned": "thresholds tuned, cross-fitted", "_decoded": "of the answers"}
    scores = [(f"{kind}{end}", f"{title}, {how}") for end, how in titles.items() for kind, title in SUMMARY.items()]
    scores += [("map", "mAP"), ("lrap", "LRAP")]
    data = now.get("dataset_name") or now.get("validation_file") or now.get("train_file") or "own data"
    on_hub = now.get("dataset_name") and was["dataset_name"] == now["dataset_name"]
    card.data.eval_results = [
        EvalResult(
            task_type="text-classification",
            task_name="multi-label text classification",
            dataset_type=now["dataset_name"] if on_hub else "custom",
            dataset_name=data,
            dataset_split="validation",
            metric_type="f1" if kind.startswith("f1") else kind.removesuffix("_tuned").removesuffix("_decoded"),
            metric_name=title,
            metric_value=results[f"eval_{kind}"],
        )
        for kind, title in scores
        if f"eval_{kind}" in results
    ]
    return str(card)


@contextmanager
def _told(doing, token=None, later=None):
    """Tell what goes wrong with the Hub in one line, without the token; `later` is the command to try again by."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def told(error, reason, todo):
        again = f". The run is complete; push it later by {later}" if later else ""
        text = f"{doing}: {reason}: {todo}{again}"
        secrets = (token, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))
        for secret in filter(None, secrets):
            text = text.replace(secret, "<HUB_TOKEN>")
        return UserError(text)

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last ones of LFS and Xet
        # Of files that are not in the cache either, the cause is why they could not be fetched.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, OfflineModeIsEnabled):
            raise told(cause, "HF_HUB_OFFLINE is set", "unset it to reach the Hub") from error
        if isinstance(cause, OSError) and cause.filename:
            raise told(cause, f"{cause.filename}: {cause.strerror}", "see to that file") from error
        if not isinstance(cause, HfHubHTTPError):
            said = " ".join(str(cause).split())[:300]
            raise told(cause, said or type(cause).__name__, "check the network of this machine") from error
        status = cause.response.status_code
        said = f", {' '.join(cause.server_message.split())[:200]}" if cause.server_message else ""
        todo = WHAT_TO_DO.get(status, "the Hub has trouble of its own: try again" if status >= 500 else "see there")
        raise told(cause, f"the Hub says no ({status}){said}", todo) from error


@exit_on_user_error
def main(argv=None):
    """Push the run folder named."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or set(argv) & {"-h", "--help"}:
        return print_help(__doc__, [PushArguments])
    words = list(takewhile(lambda word: not word.startswith("--"), argv))
    if len(words) != 2 or words[0] != "push":
        raise UserError("write python -m utils.hub push FOLDER, then flags")
    (push,) = ArgumentParser([PushArguments]).parse(argv[2:])
    hide_token(push.hub_token)
    push_run(words[1], push, lambda message: print(message, file=sys.stderr, flush=True))
