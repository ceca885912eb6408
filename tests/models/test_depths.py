"""The first layers of a model, frozen or trained more slowly than the last ones."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

import run_classifier
from conftest import training_flags
from utils.core.errors import UserError
from utils.core.files import read_json
from utils.models.layers import depths, freeze_layers, slow_first_layers

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
KINDS = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 8},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4},
    "modernbert": {"pad_token_id": 0},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "pad_token_id": 0},
}


def model_of(kind):
    shape = {} if kind == "distilbert" else SMALL
    config = AutoConfig.for_model(kind, **{**shape, "vocab_size": 50, **KINDS[kind]})
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_its_depth(kind):
    deep = depths(model_of(kind))
    assert set(deep.values()) == {0, 1, 2, 3, 4}
    for name, depth in deep.items():
        if "embed" in name.lower():
            assert depth == 0, name
        if any(part in name for part in ("classifier", "score", "head.", "pooler")):
            assert depth == 4, name


@pytest.mark.parametrize("kind", KINDS)
def test_learning_rates_fall_with_the_depth(kind):
    model = model_of(kind)
    groups = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    slow_first_layers(optimizer, model, 0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert found == {name: 0.01 * 0.5 ** (4 - depth) for name, depth in depths(model).items()}
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)


def test_all_layers_are_not_frozen():
    with pytest.raises(UserError, match="--freeze_layers 3: the model has 3 layers"):
        freeze_layers(model_of("bert"), 3)
    with pytest.raises(UserError, match="were not found"):
        depths(torch.nn.Linear(2, 2))


def test_a_training_leaves_frozen_layers_as_they_are(tiny, tmp_path):
    base = tiny("roberta")
    more = {"freeze_layers": 1, "layer_lr_decay": 0.5, "label_smoothing_factor": 0.1, "num_train_epochs": 1}
    run_classifier.main(training_flags(base, tmp_path / "run", max_train_samples=64, **more))
    before, after = load_file(f"{base}/model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    same = {name for name, tensor in after.items() if name in before and torch.equal(tensor, before[name])}
    frozen = {name for name in after if ".embeddings." in name or ".layer.0." in name}
    assert frozen <= same
    assert not {name for name in same - frozen if ".layer.1." in name}
    arguments = read_json(tmp_path / "run" / "run_args.json")
    assert {name: arguments[name] for name in more} == more


def test_adapters_freeze_all_layers_themselves(refused, tiny, tmp_path):
    flags = training_flags(tiny("roberta"), tmp_path / "run", use_peft=True, freeze_layers=1)
    assert "--freeze_layers is for training in full" in refused(run_classifier.main, *flags)
