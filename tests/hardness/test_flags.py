"""Values of flags that ended in a traceback, or were taken and made nonsense."""

import pytest

import predict
import run_classifier
import run_sft_labels
from conftest import training_flags


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
