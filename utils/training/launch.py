"""How a script was launched: what cannot work is refused before the model is loaded, and the processes agree.

`accelerate launch` says by environment variables which engine it starts: nothing, DDP, FSDP or DeepSpeed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType, gather_object, is_deepspeed_available, str_to_bool

from utils.core.arguments import ModelArguments
from utils.core.errors import UserError
from utils.core.processes import is_set, this_process

if TYPE_CHECKING:  # it imports this module
    from utils.training.arguments import TaskTrainingArguments

SHARED_FOLDER_TIMEOUT = 60  # seconds; file systems over a network show a new file late


def check_deepspeed_installed(config_file: str | dict | None = None) -> None:
    """Refuse to use DeepSpeed, by the launcher or `--deepspeed` (`config_file`), where it is not installed.

    Raises:
        UserError: with the remedy.
    """
    if (config_file or is_set("ACCELERATE_USE_DEEPSPEED")) and not is_deepspeed_available():
        raise UserError("DeepSpeed is not installed: pip install -r requirements-deepspeed.txt")


def uses_fsdp(training_args: TaskTrainingArguments) -> bool:
    """Whether weights are sharded by FSDP, from the launcher's configuration or `--fsdp`."""
    return is_set("ACCELERATE_USE_FSDP") or training_args.fsdp_plugin_args is not None


def zero_stage(training_args: TaskTrainingArguments) -> int | None:
    """DeepSpeed's ZeRO stage, from the launcher's configuration or `--deepspeed`; None without DeepSpeed."""
    plugin = training_args.deepspeed_plugin
    if plugin is not None:
        return int(plugin.deepspeed_config["zero_optimization"]["stage"])
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")) if is_set("ACCELERATE_USE_DEEPSPEED") else None


def _fsdp_option(training_args: TaskTrainingArguments, name: str, default: str) -> str:
    """An option of FSDP as text: `--fsdp`'s own, else the launcher's."""
    given = (training_args.fsdp_plugin_args or {}).get(name)
    return str(given if given is not None else os.environ.get(f"FSDP_{name.upper()}", default))


def fsdp_storage(model_args: ModelArguments, training_args: TaskTrainingArguments) -> str | None:
    """Dtype of all weights where FSDP shards a 4-bit model, None elsewhere.

    4-bit weights are packed into 16-bit numbers there (`bnb_4bit_quant_storage`), as bytes cannot be sharded, and the
    other weights must have the same dtype.
    """
    if not (uses_fsdp(training_args) and model_args.load_in_4bit):
        return None
    return "bfloat16" if training_args.bf16 else "float16" if training_args.fp16 else None


def check_launch(model_args: ModelArguments, training_args: TaskTrainingArguments, merge_adapter: bool = False) -> None:
    """Refuse what cannot work the way this script was launched.

    Args:
        model_args: which model, in how many bits.
        training_args: Trainer's arguments.
        merge_adapter: whether the adapter will be merged.

    Raises:
        UserError: with the remedy.
    """
    if training_args.n_gpu > 1:
        raise UserError(
            f"{training_args.n_gpu} GPUs are visible to one process: start with `accelerate launch --multi_gpu`, or "
            "choose one by CUDA_VISIBLE_DEVICES=0"
        )
    stage = zero_stage(training_args)
    quantised = "4-bit" if model_args.load_in_4bit else "8-bit" if model_args.load_in_8bit else None
    distributed = training_args.world_size > 1 or uses_fsdp(training_args) or stage is not None
    device_map = (getattr(training_args, "model_init_kwargs", None) or {}).get("device_map")
    if device_map is not None and distributed:
        raise UserError(
            f"device_map {device_map} spreads one model over the GPUs that each of the launched processes wants for "
            "itself: leave it out, or start one process without a launcher"
        )
    if stage == 3 and quantised:
        raise UserError(
            f"{quantised} weights cannot be sharded by DeepSpeed ZeRO-3: launch with accelerate_configs/multi_gpu.yaml "
            "or fsdp2_qlora.yaml, or leave out the quantisation"
        )
    if stage == 3 and merge_adapter:
        raise UserError(
            "--merge_adapter loads the model in one process, where DeepSpeed ZeRO-3 waits for all: leave it out, "
            "or launch with another of accelerate_configs/"
        )
    if stage == 3 and not _saves_whole_model(training_args):
        raise UserError(
            "DeepSpeed ZeRO-3 would save shards instead of a model: set zero3_save_16bit_model: true, as in "
            "accelerate_configs/deepspeed_zero3.yaml"
        )
    if uses_fsdp(training_args):
        _check_fsdp(model_args, training_args, quantised)
    started = this_process().distributed_type
    if started in (DistributedType.NO, DistributedType.MULTI_CPU) and (uses_fsdp(training_args) or stage is not None):
        # accelerate has started plain DDP instead, without a word.
        raise UserError(
            f"{'DeepSpeed' if stage is not None else 'FSDP'} needs GPUs: launch with accelerate_configs/cpu.yaml or "
            "cpu_2_processes.yaml here"
        )


def check_free_decoding(model_args: ModelArguments, training_args: TaskTrainingArguments) -> None:
    """Refuse free decoding where it would wait for ever: `generate` of an adapter or under ZeRO-3 passes by the hook by
    which processes that share weights keep in step.

    Raises:
        UserError: with the flag to leave out.
    """
    stage = zero_stage(training_args)
    if training_args.world_size > 1 and (stage == 3 or (uses_fsdp(training_args) and model_args.use_peft)):
        raise UserError(
            "--decoding free does not work with LoRA under FSDP, nor under DeepSpeed ZeRO-3: leave it out, or launch "
            "with accelerate_configs/multi_gpu.yaml"
        )


def _saves_whole_model(training_args: TaskTrainingArguments) -> bool:
    if training_args.deepspeed_plugin is None:
        return is_set("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")
    zero = training_args.deepspeed_plugin.deepspeed_config["zero_optimization"]
    return zero.get("stage3_gather_16bit_weights_on_model_save") in (True, "true")


def _check_fsdp(model_args: ModelArguments, training_args: TaskTrainingArguments, quantised: str | None) -> None:
    """Refuse what FSDP cannot do; `quantised` is 4-bit, 8-bit or None."""
    version = _fsdp_option(training_args, "fsdp_version", os.environ.get("FSDP_VERSION", "1"))
    if version != "2":
        raise UserError(
            f"FSDP version {version} is not supported: set fsdp_version: 2, as in accelerate_configs/fsdp2.yaml"
        )
    if training_args.checkpoints_activations and str_to_bool(
        _fsdp_option(training_args, "activation_checkpointing", "false")
    ):
        raise UserError(
            "activations would be checkpointed twice, by FSDP (fsdp_activation_checkpointing) and by "
            "--activation_checkpointing: pass --activation_checkpointing False"
        )
    # FSDP 2 saves shards unless told otherwise, and then Trainer's save_model writes no model at all.
    if "FULL" not in _fsdp_option(training_args, "state_dict_type", "SHARDED_STATE_DICT").upper():
        raise UserError(
            "FSDP would save shards instead of a model: set fsdp_state_dict_type: FULL_STATE_DICT, as in "
            "accelerate_configs/fsdp2.yaml"
        )
    if not training_args.optim_left_out and any(
        word in training_args.optimizer_name for word in ("8bit", "4bit", "paged", "bnb")
    ):
        raise UserError(
            f"--optim {training_args.optimizer_name}: bitsandbytes' optimizers do not know FSDP's sharded weights: "
            "leave it out, or pass adamw_torch_fused"
        )
    if quantised == "8-bit":
        raise UserError("8-bit weights cannot be sharded by FSDP: pass --load_in_4bit, or launch without FSDP")
    if quantised is None:
        return
    if str_to_bool(_fsdp_option(training_args, "cpu_ram_efficient_loading", "false")):
        raise UserError(
            "with fsdp_cpu_ram_efficient_loading only one process would get a 4-bit model's weights: set it to false, "
            "as in accelerate_configs/fsdp2_qlora.yaml"
        )
    storage = fsdp_storage(model_args, training_args)
    if storage is None:
        raise UserError("4-bit weights under FSDP need 16-bit mixed precision: pass --bf16")
    for flag in ("bnb_4bit_quant_storage", "dtype"):
        if getattr(model_args, flag) not in (None, storage):
            raise UserError(
                f"--{flag} {getattr(model_args, flag)}: under FSDP 4-bit weights are sharded as {storage}, which the "
                "other weights must be too: leave it out"
            )


def _engine_of_checkpoint(checkpoint: str) -> str:
    names = {path.name for path in Path(checkpoint).iterdir()}
    if "latest" in names:
        return "DeepSpeed"
    return "FSDP" if any(name.startswith("pytorch_model_fsdp") for name in names) else "one copy per process"


def check_checkpoint(checkpoint: str | None, training_args: TaskTrainingArguments) -> None:
    """Refuse to resume where the processes do not see the same checkpoint, or the engine cannot read it.

    One copy per process (DDP) and FSDP with whole checkpoints resume with any number of processes; DeepSpeed's ZeRO
    checkpoints hold the shards of as many processes as wrote them.

    Args:
        checkpoint: folder that this process would resume from, or None.
        training_args: they say which engine is running.

    Raises:
        UserError: in every process alike.
    """
    state = this_process()
    seen = gather_object([checkpoint]) if state.num_processes > 1 else [checkpoint]
    if len(set(seen)) > 1:
        raise UserError(
            f"the nodes do not see the same checkpoint ({', '.join(sorted(set(map(str, seen))))}): --output_dir must "
            "lie on a file system that all nodes share"
        )
    if checkpoint is None:
        return
    engine = "DeepSpeed" if zero_stage(training_args) is not None else "FSDP" if uses_fsdp(training_args) else None
    engine = engine or "one copy per process"
    written_by = _engine_of_checkpoint(checkpoint)
    if engine != written_by:
        raise UserError(
            f"{checkpoint} was saved by another engine ({written_by}, now it is {engine}): launch as before, or begin "
            "again from the start with --overwrite"
        )
    processes = len(list(Path(checkpoint).glob("rng_state*.pth")))
    if engine == "DeepSpeed" and processes != state.num_processes:
        raise UserError(
            f"{checkpoint} holds DeepSpeed's shards of {processes} processes, now there are {state.num_processes}: "
            f"launch with --num_processes {processes}, or begin again from the start with --overwrite"
        )


def check_shared_folder(marker: Path) -> None:
    """Make sure that every process sees `marker`, a file that the main process has just written in the run's folder.

    All of them load the best checkpoint from there at the end. On a node with a folder of its own the last weights
    would be kept instead, without a word, and its share of the rows be predicted by another model.

    Raises:
        UserError: in every process alike.
    """
    state = this_process()
    if state.num_processes == 1:
        return

    def written() -> int | None:  # a folder of the node's own may hold a marker of an earlier run
        return Path(marker).stat().st_mtime_ns if Path(marker).exists() else None

    expected = gather_object([written()])[0]
    deadline = time.monotonic() + SHARED_FOLDER_TIMEOUT
    while written() != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    if not all(gather_object([written() == expected])):
        raise UserError(
            f"{Path(marker).parent} is not the same folder on all nodes: --output_dir must lie on a file system that "
            "they share"
        )
