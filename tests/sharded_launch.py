"""Runs commands of this project with FSDP 2 or DeepSpeed on CPU processes, which accelerate allows on GPUs only.

    python -m torch.distributed.run --nproc_per_node 2 tests/sharded_launch.py accelerate_configs/fsdp2.yaml jobs.json

The configuration is read as `accelerate launch` reads it. Four things are replaced, all before the first command:
the communication between the processes (gloo, told to accelerate as that of several GPUs) and its end, the device (the
CPU), and for DeepSpeed the operation for shared memory, which it would compile. jobs.json holds a list of commands,
each a list of words; they run one after the other in the same processes: imports take longer than tiny models. A
command `interrupt RUN COPY STEP` copies a finished run as a kill after the checkpoint of that step would have left it.
"""

import faulthandler
import importlib
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SECONDS_TO_HANG = 150  # then each process says where it is


def launch_environment(path, *words):
    """The environment that `accelerate launch` would give the processes, and the launcher's parsed arguments."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(path), *words, "run_classifier.py"]
    if "num_machines: 2" in Path(path).read_text():
        words[2:2] = ["--main_process_port", "29511"]  # that port is another machine's
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)  # as launch_command does
        return prepare_deepspeed_cmd_env(args)[1], args
    return prepare_multi_gpu_env(args), args


def allow_on_cpu(use_deepspeed):
    """Replace what accelerate and DeepSpeed only have for GPUs."""
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begin_on_cpu(self, *args, **kwargs):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
            if use_deepspeed:
                import deepspeed.comm

                deepspeed.comm.comm.cdb = None
                deepspeed.comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
        kwargs.pop("cpu", None)
        begin(self, **kwargs)
        if use_deepspeed:
            self.distributed_type = DistributedType.DEEPSPEED

    PartialState.__init__ = begin_on_cpu
    torch.distributed.destroy_process_group = lambda *args: None  # the next command goes on with the same group
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    if use_deepspeed:
        os.environ["DS_ACCELERATOR"] = "cpu"
        # The attribute `torch` of deepspeed.comm is torch itself.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def say_how_gradients_are_added():
    """Print, for the test, in which dtype FSDP 2 adds the gradients of the processes."""
    import torch.distributed.fsdp as fsdp

    shard = fsdp.fully_shard

    def shard_and_say(*args, **kwargs):
        # In one piece, as two processes write.
        os.write(1, f"gradients are added in {kwargs['mp_policy'].reduce_dtype}\n".encode())
        return shard(*args, **kwargs)

    fsdp.fully_shard = shard_and_say


def interrupt(run, copy, step):
    """Copy a finished run without what came after the checkpoint of a step."""
    shutil.copytree(run, copy)
    for path in Path(copy).iterdir():
        number = path.name.removeprefix("checkpoint-")
        if not (path.name in ("run_args.json", "task.json") or (number.isdigit() and int(number) <= int(step))):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(config, jobs):
    environment, args = launch_environment(config)
    own = ("ACCELERATE_", "FSDP_")
    os.environ |= {name: value for name, value in environment.items() if name.startswith(own)}
    allow_on_cpu(args.use_deepspeed)
    say_how_gradients_are_added()

    import torch
    from accelerate.state import AcceleratorState, GradientState

    for words in json.loads(Path(jobs).read_text()):
        if words[0] == "interrupt":
            if os.environ["RANK"] == "0":
                interrupt(*words[1:])
            torch.distributed.barrier()
            continue
        sys.argv = words
        faulthandler.dump_traceback_later(SECONDS_TO_HANG, exit=True)
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(*sys.argv[1:])
