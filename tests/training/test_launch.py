"""Launch configurations, launches that cannot work, and runs spread over nodes and resumed with other numbers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, patch_environment

import run_classifier
from conftest import (
    ROOT,
    WARM_PYTHON,
    assert_close,
    free_port,
    run_script,
    start_script,
    training_flags,
    undivided_flags,
)
from sharded_launch import launch_environment
from utils.core.arguments import ModelArguments, ThresholdArguments
from utils.core.errors import UserError
from utils.training.arguments import TaskTrainingArguments, fill_in
from utils.training.launch import check_checkpoint, check_launch

CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
ZERO_3 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}


# Configurations


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_the_configuration(path):
    content = yaml.safe_load(path.read_text())
    environment, args = launch_environment(path)
    # accelerate takes unknown keys of these sections for flags of that name, and says nothing.
    known = vars(launch_command_parser().parse_args(["x.py"]))
    for section in ("fsdp_config", "deepspeed_config"):
        for key, value in content.get(section, {}).items():
            assert key in known
            assert getattr(args, key) == value
    assert args.num_processes == content["num_processes"]
    assert all("#" in line for line in path.read_text().splitlines())  # every key is explained
    with patch_environment(**environment):
        if args.use_fsdp:
            plugin = FullyShardedDataParallelPlugin()
            assert plugin.fsdp_version == 2
            assert plugin.state_dict_type.name == "FULL_STATE_DICT"
            assert plugin.reshard_after_forward is True
            assert plugin.cpu_ram_efficient_loading == ("qlora" not in path.stem)
        if args.use_deepspeed:
            zero = DeepSpeedPlugin().deepspeed_config["zero_optimization"]
            assert zero["stage"] == int(path.stem[-1])
            assert zero["stage3_gather_16bit_weights_on_model_save"] == (path.stem[-1] == "3")


def test_all_configurations_are_there():
    names = {"cpu", "cpu_2_processes", "single_gpu", "multi_gpu", "fsdp2", "fsdp2_qlora", "multi_node"}
    assert {path.stem for path in CONFIGS} == names | {"deepspeed_zero2", "deepspeed_zero3"}


# Refusals


def arguments(tmp_path, model=None, **training):
    """Arguments as the script has them when it checks the launch."""
    model_args = ModelArguments(model_name_or_path="m", **(model or {}))
    return model_args, TaskTrainingArguments(output_dir=str(tmp_path / "run"), **training)


QLORA = {"use_peft": True, "load_in_4bit": True}


@pytest.mark.parametrize(
    ("environment", "model", "training", "message"),
    [
        (ZERO_3, QLORA, {}, "4-bit weights cannot be sharded by DeepSpeed ZeRO-3"),
        (ZERO_3 | {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"}, {}, {}, "zero3_save_16bit_model: true"),
        (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, {"activation_checkpointing": True}, "twice"),
        (FSDP | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, {}, {}, "FULL_STATE_DICT"),
        (FSDP | {"FSDP_VERSION": "1"}, {}, {}, "fsdp_version: 2"),
        (FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, QLORA, {"bf16": True}, "set it to false"),
        (FSDP, {"use_peft": True, "load_in_8bit": True}, {}, "8-bit weights cannot be sharded"),
        (FSDP, QLORA, {"bf16": False}, "pass --bf16"),
        (FSDP, QLORA | {"dtype": "float32"}, {"bf16": True}, "--dtype float32: under FSDP"),
        (FSDP, QLORA | {"bnb_4bit_quant_storage": "uint8"}, {"bf16": True}, "--bnb_4bit_quant_storage uint8"),
        (FSDP, {}, {"optim": "adamw_bnb_8bit"}, "bitsandbytes' optimizers"),
        (FSDP, {}, {}, "FSDP needs GPUs"),
        (ZERO_3, {}, {}, "DeepSpeed needs GPUs"),
    ],
)
def test_launches_that_cannot_work(tmp_path, environment, model, training, message):
    model_args, training_args = arguments(tmp_path, model, **training)
    with patch_environment(**environment), pytest.raises(UserError, match=message):
        check_launch(model_args, training_args)


def test_merging_under_zero_3_and_a_device_map(tmp_path):
    model_args, training_args = arguments(tmp_path)
    with patch_environment(**ZERO_3), pytest.raises(UserError, match="--merge_adapter"):
        check_launch(model_args, training_args, merge_adapter=True)
    training_args.model_init_kwargs = {"device_map": "auto"}
    check_launch(model_args, training_args)  # one process may spread its model
    with patch_environment(**FSDP), pytest.raises(UserError, match="device_map auto"):
        check_launch(model_args, training_args)


def test_device_map_from_the_command_line(tmp_path, refused):
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run"), "--device_map", "auto")
    assert line.startswith("error: there is no --device_map: each process puts its model on its own device")


def test_four_bit_weights_are_packed_so_that_fsdp_can_shard_them(tmp_path):
    model_args, training_args = arguments(tmp_path, QLORA, bf16=True)
    training_args.use_cpu = False
    with patch_environment(**FSDP):
        fill_in(model_args, ThresholdArguments(), training_args)
        with pytest.raises(UserError, match="FSDP needs GPUs"):  # what is refused last
            check_launch(model_args, training_args)
    assert (model_args.bnb_4bit_quant_storage, model_args.dtype) == ("bfloat16", "bfloat16")
    assert training_args.optim == "adamw_torch_fused"


def test_packed_weights_compute_the_same(tiny):
    """4-bit weights in bf16 storage, as FSDP shards them, give the logits of those in bytes."""
    import torch

    from utils.data.task import Task
    from utils.models.classifier import load_with_head
    from utils.models.loading import load_tokenizer

    logits = []
    for storage in (None, "bfloat16"):
        tokenizer = load_tokenizer(tiny("qwen2"))
        model_args = ModelArguments(
            model_name_or_path=tiny("qwen2"), dtype="bfloat16", bnb_4bit_quant_storage=storage, **QLORA
        )
        model = load_with_head(model_args, Task(["a", "b"], ["text"], ["a", "b"]), tokenizer)
        weight = model.model.layers[0].mlp.up_proj.weight
        torch.nn.init.ones_(model.score.weight)
        assert weight.dtype == (torch.bfloat16 if storage else torch.uint8)
        with torch.inference_mode():
            logits.append(model(**tokenizer("some text", return_tensors="pt")).logits)
    assert torch.equal(*logits)


def test_fsdp_from_the_command_line(tmp_path):
    """The real launcher, as far as it goes without a GPU: our own refusal, told once."""
    config = ROOT / "accelerate_configs" / "fsdp2.yaml"
    command = [WARM_PYTHON, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", 1]
    done = subprocess.run(
        [*map(str, command), "run_classifier.py", *training_flags("m", tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: FSDP needs GPUs: launch with accelerate_configs/cpu.yaml or cpu_2_processes.yaml here"], (
        done.stderr
    )


def test_deepspeed_that_is_not_installed(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # also where it is
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run"))
    assert line == "error: DeepSpeed is not installed: pip install -r requirements-deepspeed.txt"


# Checkpoints


def test_checkpoints_of_another_engine(tmp_path):
    _, training_args = arguments(tmp_path)
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    for rank in range(4):
        (checkpoint / f"rng_state_{rank}.pth").write_bytes(b"")
    check_checkpoint(str(checkpoint), training_args)  # DDP resumes with any number of processes
    (checkpoint / "latest").write_text("global_step5")
    with pytest.raises(UserError, match=r"saved by another engine \(DeepSpeed"):
        check_checkpoint(str(checkpoint), training_args)
    with patch_environment(**ZERO_3), pytest.raises(UserError, match="shards of 4 processes, now there are 1"):
        check_checkpoint(str(checkpoint), training_args)
    (checkpoint / "latest").unlink()
    (checkpoint / "pytorch_model_fsdp.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"saved by another engine \(FSDP"):
        check_checkpoint(str(checkpoint), training_args)
    with patch_environment(**FSDP):
        check_checkpoint(str(checkpoint), training_args)


# Nodes


def final_scores(folder):
    results = json.loads((Path(folder) / "all_results.json").read_text())
    return {name: value for name, value in results.items() if isinstance(value, float) and name.startswith("eval_")}


def assert_same_scores(folder, expected):
    scores, others = final_scores(folder), final_scores(expected)
    assert_close(
        *({n: v for n, v in one.items() if "runtime" not in n and "per_second" not in n} for one in (scores, others))
    )


@pytest.mark.processes
def test_two_nodes_give_the_result_of_one_process(model_without_dropout, undivided, tmp_path):
    """Two launchers on this machine that take each other for two nodes, with a process each."""
    flags = undivided_flags(model_without_dropout, tmp_path / "run", 4)
    where = [
        "--num_machines",
        2,
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        free_port(),
        "--same_network",
    ]
    nodes = [
        start_script(
            "run_classifier.py",
            *flags,
            processes=2,
            launcher=[*map(str, where), "--machine_rank", str(rank)],
            warm=False,  # at least one launch starts its interpreters as a user's does
        )
        for rank in (0, 1)
    ]
    for node in nodes:
        _, errors = node.communicate(timeout=180)
        assert node.returncode == 0, errors
    assert_same_scores(tmp_path / "run", undivided)
    steps = [
        [
            entry["loss"]
            for entry in json.loads((run / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for run in (tmp_path / "run", undivided)
    ]
    assert steps[0] == pytest.approx(steps[1], abs=1e-4)


SHARED_FOLDER_CHECK = """
import sys
from pathlib import Path
from utils.core.errors import UserError
from utils.training import launch

launch.SHARED_FOLDER_TIMEOUT = 1
state = launch.this_process()
for folder in sys.argv[1:]:
    marker = Path(folder.format(rank=state.process_index)) / "run_args.json"
    if state.is_main_process:
        marker.write_text("{}")
    state.wait_for_everyone()
    try:
        launch.check_shared_folder(marker)
        print("shared")
    except UserError as error:
        print(error)
"""


def test_nodes_without_a_shared_folder_are_refused(tmp_path):
    """Two processes, first with one folder, then each with a folder of its own, as two machines have under one name."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    (tmp_path / "1" / "run_args.json").write_text("left by an earlier run")
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [WARM_PYTHON, "-c", SHARED_FOLDER_CHECK, str(tmp_path), str(tmp_path / "{rank}")]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        shared, refused = process.communicate(timeout=120)[0].splitlines()
        assert shared == "shared"
        assert "must lie on a file system that they share" in refused


@pytest.mark.processes
def test_resuming_with_another_number_of_processes(model_without_dropout, undivided, tmp_path):
    """Begun by one process with 8 rows a step, killed after the first epoch, ended by two with 4 each."""
    folder = tmp_path / "run"
    shutil.copytree(undivided, folder)
    for name in ("manifest.json", "all_results.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-16")
    assert (folder / "checkpoint-8" / "rng_state.pth").exists()
    done = run_script("run_classifier.py", *undivided_flags(model_without_dropout, folder, 4), processes=2)
    assert done.returncode == 0, done.stderr
    assert f"resuming from {folder / 'checkpoint-8'}" in done.stderr
    assert_same_scores(folder, undivided)
