"""The layers of a model by their depth: the first ones frozen, or trained more slowly than the last ones."""

from __future__ import annotations

from collections import defaultdict

import torch

from utils.core.errors import UserError


def depths(model: torch.nn.Module) -> dict[str, int]:
    """How deep each parameter lies, by its name: 0 for embeddings, 1 to L in the L layers, L + 1 for what follows.

    Raises:
        UserError: for a model whose layers are in no list.
    """
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
    config = getattr(model, "config", None)
    number = config.get_text_config().num_hidden_layers if config is not None else 0
    found = next((name for name, part in lists if len(part) == number), None)
    if found is None:
        raise UserError("the layers of this model were not found: leave out --freeze_layers and --layer_lr_decay")
    result, behind = {}, 0
    for name, _ in model.named_parameters():
        if name.startswith(f"{found}."):
            result[name] = int(name.removeprefix(f"{found}.").split(".")[0]) + 1
            behind = number + 1
        else:
            result[name] = 0 if "embed" in name.lower() else behind
    return result


def freeze_layers(model: torch.nn.Module, number: int) -> None:
    """Freeze the embeddings and the first layers.

    Args:
        model: before training.
        number: layers to freeze.

    Raises:
        UserError: if the model has no more layers than that, or they are not found.
    """
    deep = depths(model)
    layers = max(deep.values()) - 1
    if number >= layers:
        raise UserError(
            f"--freeze_layers {number}: the model has {layers} layers; give fewer, so that some are trained"
        )
    for name, parameter in model.named_parameters():
        if deep[name] <= number:
            parameter.requires_grad = False


def slow_first_layers(optimizer: torch.optim.Optimizer, model: torch.nn.Module, decay: float) -> None:
    """Give the parameters of each layer the learning rate of the layer above it times `decay`.

    That is the layer-wise decay of ELECTRA (Clark et al. 2020, appendix A); the head keeps the learning rate that the
    optimizer was made with.

    Args:
        optimizer: new, without a scheduler.
        model: its parameters' model, as the optimizer has them.
        decay: factor between two layers.

    Raises:
        UserError: for a model whose layers are not found.
    """
    deep = depths(model)
    top = max(deep.values())
    factors = {parameter: decay ** (top - deep[name]) for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        by_factor = defaultdict(list)
        for parameter in group["params"]:
            by_factor[factors[parameter]].append(parameter)
        groups += [{**group, "params": some, "lr": group["lr"] * factor} for factor, some in by_factor.items()]
    # The first group's learning rate is the one that logs show.
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])
