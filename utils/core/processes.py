"""The processes of a launch: which one this is, and how they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loading it takes torch, which reading data by one process does not need
    from accelerate import PartialState

# How torchrun and the launchers of MPI say how many processes there are, as accelerate reads it.
NUMBER_OF_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def is_launched_several_times() -> bool:
    """Whether this is one of several processes of a launch."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in NUMBER_OF_PROCESSES)


def this_process() -> PartialState:
    """`PartialState` of this process: its rank, its device, and the way to wait for the others.

    Call it before a model is loaded: bitsandbytes puts 4-bit weights on the current device, which this makes the
    process's own.
    """
    import torch
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState()
    return PartialState(cpu=is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


@contextmanager
def local_main_first() -> Generator[None]:
    """Let the first process of each node run the block before the others, which then find its files in the cache.

    Unlike accelerate's own, the others go on also when the first one fails: they meet the same mistake, and end.
    """
    if not is_launched_several_times():
        yield
        return
    state = this_process()
    if not state.is_local_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_local_main_process:
            state.wait_for_everyone()


def is_set(name: str, default: str = "false") -> bool:
    """Whether an environment variable holds a word for yes."""
    from accelerate.utils import str_to_bool

    return str_to_bool(os.environ.get(name, default)) == 1
