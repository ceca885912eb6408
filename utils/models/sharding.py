"""Models whose weights several processes share, cut up by FSDP 2 or DeepSpeed ZeRO-3."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether each process holds a part of the weights only."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


def ready_to_shard(model: PreTrainedModel) -> None:
    """Mend what accelerate would stumble over, or train wrongly, when FSDP 2 shards the model.

    - FSDP shards each module of the classes in `_no_split_modules` by itself. In BERT and its kin these hold the
      embeddings, on which accelerate crashes.
    - With fsdp_cpu_ram_efficient_loading only the first process has weights. In the others a new head has no storage
      at all. accelerate tells weights apart by their address, so it would take the parts of the head for one another,
      and one of them would never be trained. They get addresses here; the values come from the first process later.
    """
    model._no_split_modules = {name for name in model._no_split_modules or () if not name.endswith("Embeddings")}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                empty = torch.empty_like(parameter, device="cpu")
                module._parameters[name] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)


@contextmanager
def in_lockstep(model: PreTrainedModel) -> Generator[None]:
    """Let each process pass its own rows through a sharded model, as often as these need it.

    Every pass gathers the weights from all processes. One that needs fewer passes than another would leave that one
    waiting for ever; so whoever is done makes empty passes until all are done. Without sharding nothing happens.

    Args:
        model: causal language model, sharded or not.
    """
    if not is_sharded(model) or torch.distributed.get_world_size() == 1:
        yield
        return

    def still_at_work(here: bool) -> bool:
        processes = torch.tensor(int(here), device=model.device)
        torch.distributed.all_reduce(processes)
        return bool(processes)

    def announce(module: torch.nn.Module, inputs: Any) -> None:
        still_at_work(True)

    # Before the hooks that gather the weights.
    handle = model.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    while still_at_work(False):
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
