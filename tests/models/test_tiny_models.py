import subprocess

import pytest
from transformers import AutoModel, AutoTokenizer

from conftest import ROOT, WARM_PYTHON


@pytest.mark.parametrize("kind", ["roberta", "qwen2", "qwen3"])
def test_tiny_models_load(tiny, kind):
    folder = tiny(kind)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    assert model.config.model_type == kind
    assert model.num_parameters() < 300_000
    text = "so happy 😂 #tag @someone"
    ids = tokenizer(text, return_tensors="pt")
    assert model(**ids).last_hidden_state.shape == (1, ids["input_ids"].shape[1], 64)
    assert tokenizer.decode(ids["input_ids"][0], skip_special_tokens=True) == text


def test_command_line(tmp_path):
    command = [WARM_PYTHON, "-m", "utils.models.tiny", "qwen3", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "config.json").exists()
