"""How much memory a training step needs, worked out without computing it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import datasets
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.models.approaches import Approach
from utils.models.encoding import longest_first
from utils.models.parameters import stored_count
from utils.training.launch import uses_fsdp, zero_stage

if TYPE_CHECKING:
    from utils.training.arguments import TaskTrainingArguments

# What CUDA and its libraries take on a GPU beside the tensors.
RESERVED_ON_GPU = 2**30


class Memory:
    """Bytes of a training step on one device, and the micro-batch that fits there.

    Args:
        approach: what is to be trained.
        tokens: training texts as it has encoded them.
        training_args: Trainer's arguments.
    """

    def __init__(self, approach: Approach, tokens: datasets.Dataset, training_args: TaskTrainingArguments):
        self.approach, self.training_args = approach, training_args
        self.longest = tokens.select(longest_first(tokens["length"][:])[: training_args.per_device_train_batch_size])
        self.parts = weights_and_states(approach.model, training_args)
        self.parts["activations"] = self._activations(training_args.per_device_train_batch_size)

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    def _activations(self, rows: int) -> int:
        """Bytes that a micro-batch of this many of the longest rows keeps for the backward pass."""
        numbers = [i % len(self.longest) for i in range(rows)]
        columns = self.longest.select(numbers).select_columns(
            [name for name in self.longest.column_names if name not in ("length", "full_length")]
        )
        batch = self.approach.collator(on_gpu=not self.training_args.use_cpu)(list(columns))
        return measure_activations(self.approach, dict(batch), self.training_args)

    def advice(self, capacity: int | None = None) -> str | None:
        """What to do where the step does not fit; None where it does.

        Args:
            capacity: bytes there are; left out: those of this process's device.
        """
        args = self.training_args
        capacity = device_memory(args) if capacity is None else capacity
        if self.total <= capacity:
            return None
        what = f"needs about {self.total / 2**30:.1f} GiB, the device has {capacity / 2**30:.1f} GiB"
        rows = args.per_device_train_batch_size
        fixed, each = self.total - self.parts["activations"], self.parts["activations"] / rows
        steps = rows * args.gradient_accumulation_steps
        fitting = [size for size in range(1, rows) if steps % size == 0 and fixed + size * each <= capacity]
        if fitting:
            return (
                f"{what}: pass --per_device_train_batch_size {fitting[-1]} --gradient_accumulation_steps "
                f"{steps // fitting[-1]}, which trains with the same global batch"
            )
        more = [] if args.activation_checkpointing or args.gradient_checkpointing else ["--activation_checkpointing"]
        model_args = self.approach.model_args
        more += [] if model_args.use_peft else ["--use_peft"]
        more += [] if model_args.load_in_4bit else ["--load_in_4bit"]
        remedy = f"add {' '.join(more)}, or take" if more else "take"
        return f"{what}, and one row at a time does not fit either: {remedy} a smaller model or --max_length"


def device_memory(training_args: TaskTrainingArguments) -> int:
    """Bytes of the device of this process: of its GPU, without what CUDA itself takes, or of the machine."""
    device = training_args.device
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory - RESERVED_ON_GPU
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def weights_and_states(model: torch.nn.Module, training_args: TaskTrainingArguments) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer on one device.

    FSDP and ZeRO-3 divide all of them by the number of processes, ZeRO-2 gradients and optimizer. DDP keeps the
    gradients twice, the second time in the buckets that the processes exchange.

    Args:
        model: as it is trained.
        training_args: Trainer's arguments.
    """
    processes, stage = max(1, training_args.world_size), zero_stage(training_args)
    whole = uses_fsdp(training_args) or stage == 3
    trainable = [p for p in model.parameters() if p.requires_grad]
    weights = sum(stored_count(p) * p.element_size() for p in model.parameters())
    gradients = sum(stored_count(p) * p.element_size() for p in trainable)
    moments = 2 * sum(stored_count(p) for p in trainable) * (1 if "8bit" in training_args.optimizer_name else 4)
    if not whole and stage is None and processes > 1:
        gradients *= 2
    return {
        "weights": weights // (processes if whole else 1),
        "gradients": gradients // (processes if whole or stage == 2 else 1),
        "optimizer": moments // (processes if whole or stage == 2 else 1),
    }


def measure_activations(approach: Approach, batch: dict[str, Any], training_args: TaskTrainingArguments) -> int:
    """Most bytes that the forward and backward pass of a batch hold at a time, without weights and their gradients.

    The model itself runs, over tensors without content: so LoRA, dropout, quantisation, checkpointing and the kernels
    of attention are those of the run, and nothing is computed.

    Args:
        approach: what is trained.
        batch: of its collator.
        training_args: Trainer's arguments.
    """
    model: Any = approach.model
    labels = batch.pop("labels", None)
    writes = model.get_output_embeddings() is not None
    options = {"logits_to_keep": labels.shape[1]} if writes else {}
    if batch["attention_mask"].all() and approach.model_args.pooling != "mean":
        del batch["attention_mask"]  # transformers makes no mask then
    device, dtype = next(model.parameters()).device.type, training_args.torch_compute_dtype
    with _as_in_training(model, training_args), FakeTensorMode(allow_non_fake_inputs=True) as fake, _whole(model):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        known = [fake.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())]
        inputs = {name: value.to(device) for name, value in batch.items()}
        with Count([*known, *inputs.values()]) as live:
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                logits = model(**inputs, **options).logits.float()
            if writes:  # what the log says of the answers
                with torch.no_grad():
                    torch.distributions.Categorical(logits=logits, validate_args=False).entropy()
            hooks = [weight.register_hook(live.leave_out) for weight in trained]
            torch.autograd.grad(torch.log_softmax(logits, dim=-1).sum(), trained, allow_unused=True)
    for hook in hooks:
        hook.remove()
    return live.most


@contextmanager
def _whole(model: torch.nn.Module) -> Generator[None]:
    """Give weights that DeepSpeed ZeRO-3 has cut up their whole shape, without content, for a while."""
    replaced, wholes = [], {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            shape: Any = getattr(weight, "ds_shape", None)
            if weight is not None and shape is not None:
                if weight not in wholes:  # several modules may share a weight
                    empty = torch.empty(shape, dtype=weight.dtype)
                    wholes[weight] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
                replaced.append((module, name, weight))
    for module, name, weight in replaced:
        module._parameters[name] = wholes[weight]
    try:
        yield
    finally:
        for module, name, weight in replaced:
            module._parameters[name] = weight


@contextmanager
def _as_in_training(model: Any, training_args: TaskTrainingArguments) -> Generator[None]:
    """Put a model into the state in which Trainer trains it, and back."""
    training = {module: module.training for module in model.modules()}
    checkpointing = training_args.activation_checkpointing or training_args.gradient_checkpointing
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable(training_args.activation_checkpointing_kwargs or {"use_reentrant": False})
    if not training_args.use_cpu:
        for module in model.modules():  # dropout of attention keeps no matrix on a GPU, as it would on the CPU
            if type(module).__name__.endswith("Attention"):
                module.training = False
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        if checkpointing:
            model.disable_input_require_grads()
            model.activation_checkpointing_disable()


class Count(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is active, for as long as they live.

    `now` is their sum, `most` the largest that it was.

    Args:
        known: tensors whose storages are not counted.
    """

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self.known = known  # kept, or their addresses would be given to others
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._forget, storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
        return output

    def _forget(self, address: int) -> None:
        self.now -= self.sizes.pop(address)

    def leave_out(self, tensor: torch.Tensor) -> None:
        """Do not count a tensor any more."""
        address = tensor.untyped_storage()._cdata
        self.now -= self.sizes.get(address, 0)
        self.sizes[address] = 0
