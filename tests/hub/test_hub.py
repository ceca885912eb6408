"""Pushing runs to the Hub and loading them back, against a small Hub that speaks to the real client over HTTP."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from conftest import ROOT, SAMPLE, training_flags
from finished_runs import copy_run
from hub_server import Repository, caller
from utils.runs.manifest import write_manifest


@pytest.fixture(scope="module")
def call(hub, home):
    with caller(hub, home, ROOT) as call:
        yield call


def push(call, folder, name, *flags):
    return call("utils.hub.push", "push", folder, "--hub_model_id", name, *flags)


@pytest.fixture(scope="module")
def pushed(hub, call, tiny, tmp_path_factory):
    """A LoRA run whose base model is on the Hub, pushed by the script that trained it; its folder here."""
    hub.seed("base/tiny", tiny("qwen2"))
    folder = tmp_path_factory.mktemp("runs") / "lora"
    flags = {"use_peft": True, "report": True, "num_train_epochs": 1, "max_train_samples": 64, "dtype": "float32"}
    destination = {"push_to_hub": True, "hub_model_id": "me/tweets", "hub_private_repo": True}
    status, output = call("run_classifier", *training_flags("base/tiny", folder, **flags, **destination))
    assert status == 0, output
    assert "will push as me, private" in output
    assert f"to {hub.url}/me/tweets (private)" in output
    return folder


def test_what_is_pushed(hub, pushed):
    repository = hub.repositories["me/tweets"]
    assert repository.private
    assert repository.messages == ["A finished run"]  # no checkpoint before it
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "manifest.json",
        "adapter_model.safetensors",
        "all_results.json",
        "doctor.json",
        "run_args.json",
        "task.json",
        "thresholds.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *(f"pictures/{path.name}" for path in (pushed / "pictures").iterdir()),
    }
    in_card = re.findall(r"!\[[^\]]+\]\((pictures/\w+\.png)\)", repository.files["README.md"].decode())
    assert sorted(in_card) == sorted(name for name in repository.files if name.startswith("pictures/"))
    assert len(in_card) == 5
    content = b"\n".join(repository.files.values())
    for private in (pushed.parent, SAMPLE, ROOT, "hf_right"):
        assert str(private).encode() not in content
    for text in pd.concat([pd.read_csv(SAMPLE / name) for name in ("train.csv", "validation.csv")])["Tweet"]:
        assert text.encode() not in content
    arguments = json.loads(repository.files["run_args.json"])
    here = json.loads((pushed / "run_args.json").read_text())
    assert arguments == here | {"train_file": ["train.csv"], "validation_file": "validation.csv"}


def test_card_has_the_scores_in_the_form_of_the_hub(hub, pushed):
    card = ModelCard(hub.repositories["me/tweets"].files["README.md"].decode())
    results = json.loads((pushed / "all_results.json").read_text())
    assert (card.data.library_name, card.data.base_model) == ("peft", "base/tiny")
    scores = {score.metric_name: score.metric_value for score in card.data.eval_results}
    assert scores["macro-F1, at 0.5"] == results["eval_f1_macro"]
    assert scores["macro-F1, thresholds tuned, cross-fitted"] == results["eval_f1_macro_tuned"]
    assert scores["mAP"] == results["eval_map"]
    assert {score.dataset_name for score in card.data.eval_results} == {"validation.csv"}
    local = (pushed / "README.md").read_text(encoding="utf-8")
    assert str(pushed) in local  # the run's own card stays as it was
    assert "report.html" in local
    assert "report.html" not in card.text


def test_pulled_run_predicts_the_same(call, home, pushed, tmp_path):
    for model, name in (("me/tweets", "hub"), (pushed, "local")):
        status, output = call(
            "make_submission", "--model", model, "--test_file", SAMPLE / "test.csv",
            "--output_file", tmp_path / f"{name}.csv", "--probabilities_file", tmp_path / f"{name}.parquet",
        )  # fmt: skip
        assert status == 0, output
    assert list(home.glob("hub/models--me--tweets/snapshots/*/adapter_model.safetensors"))
    assert not list(home.glob("hub/models--me--tweets/snapshots/*/README.md"))  # what is not needed is not loaded
    tables = [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("hub", "local")]
    np.testing.assert_array_equal(tables[0].iloc[:, 1:], tables[1].iloc[:, 1:])
    assert (tmp_path / "hub.csv").read_text() == (tmp_path / "local.csv").read_text()


def test_snippet_of_the_card_works(hub, call, pushed):
    card = hub.repositories["me/tweets"].files["README.md"].decode()
    status, output = call("exec", re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1))
    assert status == 0, output
    assert "python make_submission.py --model me/tweets --test_file" in card


def submit(call, *models):
    return call("make_submission", "--model", *models, "--test_file", SAMPLE / "test.csv", "--output_file", "no.csv")


def test_averaging_needs_predictions_which_are_not_pushed(call, pushed):
    status, output = submit(call, "me/tweets", pushed)
    assert status == 2
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert "predictions/validation.parquet" in output
    assert "Hub" in output.strip().splitlines()[-1]


def test_a_second_push_takes_away_what_is_obsolete(hub, call, trained):
    hub.repositories["me/again"] = Repository(False)
    hub.repositories["me/again"].files |= {"task.json": b"{}", "adapter_config.json": b"{}", "LICENSE": b"mine"}
    status, output = push(call, trained, "me/again")
    assert status == 0, output
    files = hub.repositories["me/again"].files
    assert "adapter_config.json" not in files
    assert files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    assert files["LICENSE"] == b"mine"
    content = b"\n".join(files.values())
    assert str(trained.parent.parent).encode() not in content  # nor the local base model
    assert ModelCard(files["README.md"].decode()).data.base_model is None
    assert "(public)" in output


def test_paths_seen_from_elsewhere_are_not_pushed(hub, call, trained, tmp_path):
    """A run trained in another folder: its relative paths lead nowhere from here."""
    paths = {"train_file": ["clients/acme/train.csv"], "validation_file": "acme/validation.csv"}
    for base, name in (
        ("models/acme/roberta", None),
        ("acme.v2/roberta/", None),
        ("acme/public", "acme/public"),
    ):
        folder = copy_run(trained, tmp_path / base.replace("/", "-"), model_name_or_path=base, **paths)
        status, output = push(call, folder, "me/elsewhere-trained")
        assert status == 0, output
        files = hub.repositories["me/elsewhere-trained"].files
        arguments = json.loads(files["run_args.json"])
        assert (arguments["train_file"], arguments["validation_file"]) == (["train.csv"], "validation.csv")
        assert arguments["model_name_or_path"] == (name or "roberta")
        card = ModelCard(files["README.md"].decode())
        assert card.data.base_model == name
        assert f"\n{name or 'roberta'} fine-tuned for multi-label" in card.text
        if name is None:
            assert "acme" not in "".join(content.decode() for content in files.values())
    # An adapter is of no use without its base model.
    folder = copy_run(trained, tmp_path / "adapter", model_name_or_path="models/acme/roberta", **paths)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "models/acme/roberta"}')
    write_manifest(folder)
    status, output = push(call, folder, "me/elsewhere-adapter")
    assert status == 2
    assert "needs models/acme/roberta, which is on this machine only" in output
    assert "--base_model" in output
    assert "me/elsewhere-adapter" not in hub.repositories


def test_name_left_out_is_that_of_the_folder(hub, call, trained, tmp_path):
    copy_run(trained, tmp_path / "my-run")
    status, output = call("utils.hub.push", "push", tmp_path / "my-run")
    assert status == 0, output
    assert "task.json" in hub.repositories["me/my-run"].files


def test_mistakes_and_refusals_are_told_in_one_line(hub, call, pushed, trained, tmp_path):
    hub.repositories["me/photos"] = Repository(False)
    hub.repositories["me/photos"].files["cat.jpg"] = b""
    hub.repositories["me/open"] = Repository(False)
    hub.answers |= {
        "POST /api/models/me/busy/commit": (409, "A commit has happened since"),
        "POST /api/models/me/broken/commit": (500, "Internal"),
        "GET /api/models/me/gone": (404, "Not found"),
    }
    later = f"push it later by `python -m utils.hub push {trained} --hub_model_id "
    cases = [
        (["me/tweets", "--hub_token", "hf_wrong"], ["(401)", "hf auth login", later]),
        (["someone/tweets"], ["(403)", "don't have the rights", "another --hub_model_id", later]),
        (["me/busy"], ["(409)", "A commit has happened", "try again", later]),
        (["me/broken"], ["(500)", "trouble of its own", later]),
        (["me/gone"], ["(404)", "check the name", later]),
        (["me/photos"], ["holds files but no run"]),
        (["me/open", "--hub_private_repo"], ["exists and is public"]),
        (["a/b/c"], ["must have the form user/name"]),
    ]
    try:
        for flags, parts in cases:
            status, output = push(call, trained, *flags)
            last = output.strip().splitlines()[-1]
            assert status == 2, output
            assert last.startswith("error: ")
            assert all(part in last for part in parts), last
            assert "hf_wrong" not in output
            assert "Traceback" not in output
    finally:
        hub.answers.clear()
    # Not of the network: a folder's name that no repository can have, a file that cannot be read.
    copy_run(trained, tmp_path / "one row")
    status, output = call("utils.hub.push", "push", tmp_path / "one row")
    assert status == 2
    assert "--hub_model_id user/name" in output.strip().splitlines()[-1]
    copy_run(trained, tmp_path / "file-gone")
    (tmp_path / "file-gone" / "model.safetensors").symlink_to(tmp_path / "none")
    status, output = push(call, tmp_path / "file-gone", "me/file-gone")
    assert status == 2
    assert f"{tmp_path / 'file-gone' / 'model.safetensors'}" in output.strip().splitlines()[-1]
    assert "network" not in output
    # An adapter without a base model that others could load.
    copy_run(pushed, tmp_path / "adapter", model_name_or_path=str(tmp_path))
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    write_manifest(tmp_path / "adapter")
    status, output = push(call, tmp_path / "adapter", "me/adapter")
    assert status == 2
    assert "on this machine only" in output
    status, output = push(call, tmp_path / "adapter", "me/adapter", "--base_model", "base/tiny")
    assert status == 0, output
    files = hub.repositories["me/adapter"].files
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "base/tiny"}
    assert json.loads(files["run_args.json"])["model_name_or_path"] == "base/tiny"
    card = ModelCard(files["README.md"].decode()).text
    assert "base/tiny fine-tuned with LoRA" in card
    assert "report.html" not in card  # which is not pushed, as is merged/
    assert "merged/" not in card


def test_what_cannot_be_pulled_is_told_in_one_line(hub, call):
    hub.seed("base/other", SAMPLE)
    hub.seed("base/task", SAMPLE)
    hub.repositories["base/task"].files["task.json"] = b'{"of": "others"}'
    hub.answers["GET /api/models/me/down"] = (500, "Internal")
    other = "is not a run of these scripts"
    for name, part in (("me/nothing", "(404)"), ("me/down", "(500)"), ("base/other", other), ("base/task", other)):
        status, output = submit(call, name)
        assert status == 2
        assert part in output.strip().splitlines()[-1]
        assert "Traceback" not in output
    status, output = submit(call, "no-such-folder")
    assert "no-such-folder is not the folder of a run" in output


def test_a_push_that_could_not_work_is_refused_before_training(hub, call, tiny, tmp_path):
    flags = {"push_to_hub": True, "hub_model_id": "me/x"}
    cases = [
        ({"hub_token": "hf_wrong"}, "(401)"),
        ({"use_peft": True}, "--hub_model_id me/x --base_model NAME`"),
        ({"push_to_hub": None}, "--hub_model_id is for --push_to_hub"),
        ({"hub_strategy": "checkpoint"}, "unknown flag --hub_strategy"),
        ({"hub_model_id": None}, "--hub_model_id user/name"),  # no repository can have the folder's name
    ]
    for change, part in cases:
        status, output = call("run_classifier", *training_flags(tiny("qwen2"), tmp_path / "a run", **flags | change))
        assert status == 2, output
        assert part in output.strip().splitlines()[-1]
        assert not (tmp_path / "a run").exists()
    assert "hf_wrong" not in output


def test_offline(refused, tmp_path):
    import run_classifier

    flags = training_flags("x/y", tmp_path / "my run", push_to_hub=True)
    line = refused(run_classifier.main, *flags, "--hub_token", "hf_wrong")
    assert "HF_HUB_OFFLINE is set" in line
    assert f"python -m utils.hub push '{tmp_path}/my run'" in line
    assert "hf_wrong" not in line


def test_nobody_answers(call, hub, trained, tiny, tmp_path):
    """Last, as it closes the Hub."""
    hub.shutdown()
    hub.server_close()
    status, output = push(call, trained, "me/tweets")
    assert status == 2
    assert "Connection refused" in output.strip().splitlines()[-1]
    assert "push it later by" in output
    status, output = submit(call, "me/elsewhere")
    assert status == 2
    assert "Connection refused" in output.strip().splitlines()[-1]
    # A training begins all the same.
    flags = training_flags(tiny("roberta"), tmp_path / "run", push_to_hub=True, metric_for_best_model="none")
    status, output = call("run_classifier", *flags)
    warning, error = output.strip().splitlines()[-2:]
    assert warning.startswith("WARNING: --push_to_hub: ")
    assert "The training goes on" in warning
    assert "--metric_for_best_model none" in error
