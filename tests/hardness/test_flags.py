"""Values of flags that ended in a traceback, or were taken and made nonsense."""

import logging
import sys

import pytest

import predict
import run_classifier
import run_sft_labels
from benchmarks.hardness.flags import SCRIPTS, known_flags, parser_of
from conftest import SAMPLE, training_flags
from utils.core.errors import UserError
from utils.core.log import silence_deepspeed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "9" * 30),
        ("seed", 4294967296),
        ("max_steps", "9" * 30),
        ("max_grad_norm", "nan"),
        ("adam_epsilon", "inf"),
        ("adam_epsilon", -1),
        ("max_pos_weight", "inf"),
        ("lora_dropout", "nan"),
        ("lora_dropout", 1.5),
        ("lora_alpha", -3),
        ("eval_delay", "nan"),
        ("early_stopping_patience", -1),
        ("asl_clip", 2),
        ("dataloader_num_workers", 100000),
        ("dataloader_persistent_workers", True),
        ("dataloader_multiprocessing_context", "spawn"),
        ("lora_target_modules", "("),
        ("label_delimiter", ""),
        ("num_train_epochs", 1e9),
        ("save_total_limit", -1),
        ("label_names", "x"),
        ("use_liger_kernel", True),
    ],
)
def test_numbers_and_patterns(refused, tmp_path, name, value):
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run"), f"--{name}={value}")
    assert f"--{name}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr_scheduler_kwargs", '{"no_such": 1}'),
        ("lr_scheduler_kwargs", "[1]"),
        ("optim", "galore_adamw"),
        ("accelerator_config", '{"no_such": 1}'),
        ("accelerator_config", "null"),
    ],
)
def test_objects_for_the_trainer(refused, tiny, tmp_path, name, value):
    flags = training_flags(tiny("roberta"), tmp_path / "run", max_train_samples=16, max_eval_samples=8, max_steps=1)
    refused(run_classifier.main, *flags, f"--{name}={value}")
    assert not (tmp_path / "run").exists()


def test_attention_that_needs_a_gpu(refused, tiny, tmp_path):
    flags = training_flags(tiny("roberta"), tmp_path / "run", attn_implementation="flash_attention_2")
    assert "cannot be loaded" in refused(run_classifier.main, *flags)


def test_dashes_are_no_value(refused, tmp_path):
    """argparse took `--decoding=--` for an empty list, which broke the run after its training."""
    assert "is no value" in refused(run_sft_labels.main, *training_flags("m", tmp_path / "run"), "--decoding=--")
    assert "is no value" in refused(predict.main, "--model=--", "hello")


def test_a_column_of_labels_is_no_text(refused, tmp_path):
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run", text_column="anger"))
    assert "holds labels, not texts" in line


def test_a_diverged_run_leaves_no_folder(refused, tiny, tmp_path):
    flags = training_flags(
        tiny("roberta"), tmp_path / "run", max_train_samples=32, max_eval_samples=8, learning_rate=1e17,
        per_device_train_batch_size=8, max_steps=4,
    )  # fmt: skip
    assert "NaN" in refused(run_classifier.main, *flags, "--max_grad_norm", "0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: 1\nseed: 2", "stands twice"),
        ("loss:\n  a: 1", "not others below it"),
        ("label_columns: [[a], [b]]", "no lists of lists"),
        ("3", "flag: value"),
        ("- seed", "flag: value"),
        ("a: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_yaml(refused, tmp_path, content, words):
    (tmp_path / "c.yaml").write_text(content)
    line = refused(run_classifier.main, "--config", tmp_path / "c.yaml", *training_flags("m", tmp_path / "run"))
    assert words in line


def test_exactness_that_would_not_be_reached_is_told(tiny, tmp_path, capsys):
    flags = training_flags(tiny("qwen2"), tmp_path / "run", max_train_samples=16, max_eval_samples=8, coverage=1)
    run_sft_labels.main([*flags, "--preflight_only"])
    said = capsys.readouterr().err
    assert "--coverage 1 with --max_nodes 24: probabilities are exact for the texts that need no more" in said
    assert "--max_nodes 2048 is enough for all" in said
    run_sft_labels.main([*flags, "--preflight_only", "--max_nodes", "2048"])
    assert "WARNING: --coverage" not in capsys.readouterr().err


def test_deepspeed_does_not_say_on_stdout_that_there_is_no_gpu(capsys):
    """It is imported wherever it is installed, and its log would stand in a file of predictions."""
    silence_deepspeed()
    silence_deepspeed()
    logger = logging.getLogger("DeepSpeed")
    handler = logging.StreamHandler(sys.stdout)  # as DeepSpeed makes it
    logger.addHandler(handler)
    try:
        logger.warning("Setting accelerator to CPU. If you have GPU or other accelerator, ...")
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    said = capsys.readouterr().out  # more than once where a test before has loaded DeepSpeed, which has its own handler
    assert "something else" in said
    assert "Setting accelerator" not in said


BAD = {"int": ["9" * 30, "1.5", "nan", "", "x"], "float": ["nan", "inf", "-inf", "9" * 400, "", "x"],
       "bool": ["2", "maybe"]}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_that_are_none_of_their_flag(script):
    """Every number and switch of every script, with what is no number to compute with, too large, or nothing."""
    parser, tried = parser_of(script), 0
    for flag in known_flags(script):
        for value in () if flag.choices else BAD.get(flag.kind, ()):
            with pytest.raises(UserError) as refusal:
                parser.parse([f"--{flag.name}={value}"])
            assert f"--{flag.name}" in str(refusal.value)
            assert len(str(refusal.value)) < 600
            tried += 1
    assert tried > 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("coverage", "1.5", "must lie between 0 and 1"),
        ("eval_coverage", "-0.1", "must lie between 0 and 1"),
        ("max_nodes", 0, "must be 1 or more"),
        ("decoding", "beam", "invalid choice"),
        ("label_order", "alphabetical", "invalid choice"),
        ("prompt_template", "no-such.jinja", "no such file"),
        ("prompt_template", SAMPLE, "no such file"),
        ("lora_task_type", "SEQ_CLS", "invalid choice"),
        ("pooling", "mean", "unknown flag"),
        ("loss", "asl", "unknown flag"),
        ("packing", True, "unknown flag"),
        ("max_length", -5, "must be 1 or more"),
        ("label_smoothing_factor", 0.1, "unknown flag"),
        ("layer_lr_decay", 0, "must be above 0"),
        ("freeze_layers", -1, "must be 0 or more"),
        ("neftune_noise_alpha", -1, "must be 0 or more"),
        ("eval_only", "maybe", "--eval_only"),
        ("lora_dropout", 1, "below 1"),
        ("max_steps", 0, "must be above 0"),
    ],
)
def test_flags_of_label_generation(refused, tmp_path, name, value, words):
    line = refused(run_sft_labels.main, *training_flags("m", tmp_path / "run"), f"--{name}={value}")
    assert words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"", b"{{ text", b"no text here", b"{% include '/etc/passwd' %}{{ text }}",
     b"{{ text.__class__.__mro__ }}", b"{{ labels[10**9] }}{{ text }}", b"{% for l in labels %}{{ l }}{% endfor %}"],
)  # fmt: skip
def test_prompt_templates(refused, tiny, tmp_path, content):
    (tmp_path / "prompt.jinja").write_bytes(content)
    flags = training_flags(tiny("qwen2"), tmp_path / "run", prompt_template=tmp_path / "prompt.jinja")
    assert "template" in refused(run_sft_labels.main, *flags)
    assert not (tmp_path / "run").exists()
