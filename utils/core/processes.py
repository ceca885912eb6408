"""The processes of a launch: which one this is, and how they wait for each other."""

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool


def this_process() -> PartialState:
    """`PartialState` of this process: its rank, its device, and the way to wait for the others.

    Call it before a model is loaded: bitsandbytes puts 4-bit weights on the current device, which this makes the
    process's own.
    """
    if PartialState._shared_state:
        return PartialState()
    return PartialState(cpu=is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


@contextmanager
def local_main_first() -> Generator[None]:
    """Let the first process of each node run the block before the others, which then find its files in the cache.

    Unlike accelerate's own, the others go on also when the first one fails: they meet the same mistake, and end.
    """
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
    return str_to_bool(os.environ.get(name, default)) == 1
