"""How much memory a training step needs, worked out without computing it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import datasets
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
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
        self.problem: str | None = None
        try:
            self.parts["activations"] = self._activations(training_args.per_device_train_batch_size)
        except Exception as error:  # of models that look into the data; a figure must not stop a training
            self.problem = f"activations cannot be estimated for this model: {type(error).__name__}"

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
        batch = dict(self.approach.collator(on_gpu=not self.training_args.use_cpu)(list(columns)))
        if batch["attention_mask"].all() and self.approach.model_args.pooling != "mean":
            try:  # transformers makes no mask then
                without = {name: value for name, value in batch.items() if name != "attention_mask"}
                return measure_activations(self.approach, without, self.training_args)
            except DataDependentOutputException:  # of models that look for padding in the texts
                pass
        return measure_activations(self.approach, batch, self.training_args)

    def advice(self, capacity: int | None = None) -> str | None:
        """What to do where the step does not fit; None where it does.

        Args:
            capacity: bytes there are; left out: those of this process's device.
        """
        args = self.training_args
        capacity = device_memory(args) if capacity is None else capacity
        if self.total <= capacity or self.problem:
            return None
        what = f"needs about {self.total / 2**30:.1f} GiB, the device has {capacity / 2**30:.1f} GiB"
        rows = args.per_device_train_batch_size
        fixed, steps = self.total - self.parts["activations"], rows * args.gradient_accumulation_steps
        for size in (size for size in range(rows - 1, 0, -1) if steps % size == 0):
            # Measured each: 16-bit copies of weights do not shrink with the rows.
            if fixed + self._activations(size) <= capacity:
                return (
                    f"{what}: pass --per_device_train_batch_size {size} --gradient_accumulation_steps "
                    f"{steps // size}, which trains with the same global batch"
                )
        more = [] if args.checkpoints_activations else ["--activation_checkpointing"]
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
    gradients twice, the second time in the buckets that the processes exchange. In 16 bit DeepSpeed keeps weights and
    gradients so, and with the optimizer an fp32 copy of what is trained.

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
    if stage is not None and training_args.torch_compute_dtype != torch.float32:
        numbers = sum(stored_count(p) for p in trainable)
        weights, gradients, moments = 2 * sum(stored_count(p) for p in model.parameters()), 2 * numbers, 12 * numbers
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
    labels, _ = batch.pop("labels", None), batch.pop("weight", None)
    writes = model.get_output_embeddings() is not None
    options = {"logits_to_keep": labels.shape[1]} if writes else {}
    device, dtype = next(model.parameters()).device.type, training_args.torch_compute_dtype
    # FSDP and DeepSpeed hold the weights that they compute with in the dtype of the products.
    held_in = dtype if uses_fsdp(training_args) or zero_stage(training_args) is not None else None
    with (
        _as_in_training(model, training_args),
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        _whole(model, held_in),
        ExitStack() as hooks,
    ):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        known = [fake.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())]
        inputs = {name: value.to(device) for name, value in batch.items()}
        with Count([*known, *inputs.values()]) as live:
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                logits = model(**inputs, **options).logits.float()
            if writes:  # what the log says of the answers
                with torch.no_grad():
                    torch.distributions.Categorical(logits=logits, validate_args=False).entropy()
            for weight in trained:
                hooks.callback(weight.register_hook(live.leave_out).remove)
            torch.autograd.grad(torch.log_softmax(logits, dim=-1).sum(), trained, allow_unused=True)
    return live.most


@contextmanager
def _whole(model: torch.nn.Module, dtype: torch.dtype | None) -> Generator[None]:
    """Give weights another form for a while, without content: their whole shape where DeepSpeed ZeRO-3 has cut them up.

    Args:
        model: as it is trained.
        dtype: that weights which are not quantised shall have; None: their own.
    """
    replaced, wholes = [], {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None or type(weight).__module__.startswith("bitsandbytes"):
                continue
            shape: Any = getattr(weight, "ds_shape", weight.shape)
            kind = weight.dtype if dtype is None or not weight.is_floating_point() else dtype
            if shape != weight.shape or kind != weight.dtype:
                if weight not in wholes:  # several modules may share a weight
                    empty = torch.empty(shape, dtype=kind, device=weight.device)
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
    model.train()
    if training_args.checkpoints_activations:
        # Reentrant checkpointing keeps the same, but cannot be run without content.
        options: Any = training_args.activation_checkpointing_kwargs or {}
        model.activation_checkpointing_enable({**options, "use_reentrant": False})
    if not training_args.use_cpu:
        for module in model.modules():  # dropout of attention keeps no matrix on a GPU, as it would on the CPU
            if type(module).__name__.endswith("Attention"):
                module.training = False
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        if training_args.checkpoints_activations:
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
