"""Whether the disk has room for what a training will write."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from utils.core.errors import UserError
from utils.core.tables import format_bytes
from utils.models.parameters import stored_count

if TYPE_CHECKING:
    from utils.training.batches import LengthGroupedBatches


def bytes_of_a_checkpoint(trainer: LengthGroupedBatches) -> tuple[int, int]:
    """Bytes of the model as it is saved, and of a checkpoint, estimated.

    A checkpoint holds what is saved of the model, only the trained part with adapters, and two moments in fp32 for each
    trained weight.
    """
    parameters = list(trainer.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    saved = trained if hasattr(trainer.model, "peft_config") else parameters
    model = sum(stored_count(parameter) * parameter.element_size() for parameter in saved)
    return model, model + 8 * sum(stored_count(parameter) for parameter in trained)


def bytes_to_write(trainer: LengthGroupedBatches) -> int:
    """Bytes of the checkpoints and the model of a training at its fullest, estimated.

    Kept are the last checkpoints (`--save_total_limit`), the best, and the one that is being written.
    """
    model, checkpoint = bytes_of_a_checkpoint(trainer)
    args = trainer.args
    checkpoints = 0 if args.save_strategy == "no" else (args.save_total_limit or 1) + 2
    return model + checkpoints * checkpoint


def check_space(trainer: LengthGroupedBatches) -> None:
    """Refuse a training whose checkpoints would not fit on the disk.

    Raises:
        UserError: with what is needed and what is free.
    """
    needed, free = bytes_to_write(trainer), shutil.disk_usage(str(trainer.args.output_dir)).free
    if needed > free:
        raise UserError(
            f"--output_dir {trainer.args.output_dir} has {format_bytes(free)} left, and checkpoints and model take "
            f"about {format_bytes(needed)}: free some space, choose another folder, or pass --save_strategy no"
        )
