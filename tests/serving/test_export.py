"""`python export.py`: an exported model says what its run says, also where there is no torch."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, SAMPLE, run_script, training_flags
from finished_runs import load_predictions
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.data.text import normalize
from utils.runs.folder import load_task

pytest.importorskip("onnxruntime", reason="the extra is not installed: requirements-export.txt")

import export
import make_submission
from run_classifier import main as train
from utils.models.predict_onnx import OnnxModel
from utils.serving.checks import check_new_folder
from utils.serving.folders import new_folder

# What programs without torch lack: an import of one of them fails.
WITHOUT = "import sys\nfor name in ('torch', 'transformers', 'utils', 'pandas', 'scipy'): sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def exported(trained, made_once):
    return made_once(
        "exported/onnx", lambda folder: export.main(["--model", str(trained), "--output_dir", str(folder)])
    )


@pytest.fixture(scope="module")
def lora_decoder(tiny, made_once):
    """A decoder's head on LoRA, on the mean of the tokens, texts normalised and cut early."""
    flags = {"use_peft": True, "pooling": "mean", "normalize_users": True, "normalize_urls": True, "max_length": 40}
    flags |= {"max_train_samples": 64, "num_train_epochs": 1}
    return made_once("runs/lora_mean", lambda folder: train(training_flags(tiny("qwen2"), folder, **flags)))


def validation(folder):
    """Texts and probabilities of a run's validation rows, as it has kept them."""
    labels = load_task(folder).labels
    frame = pd.read_parquet(folder / "predictions" / "validation.parquet")
    return list(frame["text"]), load_predictions(folder, labels)[[f"probability/{x}" for x in labels]].to_numpy()


def test_it_says_the_same_without_torch(trained, exported):
    texts, saved = validation(trained)
    code = f"{WITHOUT}sys.path.insert(0, sys.argv[1])\nfrom predict_onnx import OnnxModel\nimport json\n"
    code += "print(json.dumps(OnnxModel(sys.argv[1]).probabilities(json.load(sys.stdin)).tolist()))"
    command = [sys.executable, "-c", code, str(exported)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout))
    tolerance = 0.01 if read_json(trained / "run_args.json")["bf16"] else 1e-3
    assert np.abs(found - saved).max() < tolerance
    figures = read_json(exported / "export.json")
    assert figures["farthest"] < 1e-5
    assert figures["rows"] == len(texts)
    assert figures["f1_macro"] == pytest.approx(figures["run_f1_macro"], abs=1e-9)


def test_its_program_prints_labels_as_predict_does(trained, exported):
    command = [sys.executable, str(exported / "predict_onnx.py"), "so happy for you 😂", "not again..."]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    thresholds = read_json(trained / "thresholds.json")["thresholds"]
    assert [row["text"] for row in rows] == ["so happy for you 😂", "not again..."]
    for row in rows:
        assert row["labels"] == [x for x, p in row["probabilities"].items() if p >= thresholds[x]]


def test_a_submission_is_that_of_the_run(trained, exported, tmp_path):
    for name, folder in (("run", trained), ("onnx", exported)):
        files = ["--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / f"{name}.csv")]
        make_submission.main(["--model", str(folder), *files, "--probabilities_file", str(tmp_path / f"{name}_p.csv")])
    run, onnx = (pd.read_csv(tmp_path / f"{name}_p.csv", index_col=0).to_numpy() for name in ("run", "onnx"))
    assert np.abs(run - onnx).max() < 0.01
    ours, theirs = (pd.read_csv(tmp_path / f"{name}.csv", index_col=0).to_numpy() for name in ("run", "onnx"))
    assert (ours != theirs).mean() < 0.01  # bf16 of the run may move a probability over its threshold


def test_a_merged_adapter_in_8_bit(lora_decoder, tmp_path, capsys):
    texts, saved = validation(lora_decoder)
    whole, small = tmp_path / "whole", tmp_path / "small"
    done = run_script("export.py", "--model", lora_decoder, "--output_dir", whole)
    assert (done.returncode, done.stderr) == (0, "")  # libraries have much to say of a base without a head
    capsys.readouterr()
    export.main(["--model", str(lora_decoder), "--output_dir", str(small), "--int8"])
    shown = capsys.readouterr().out
    # It was trained on a base in bf16, and computes in it where that is fast; both are in fp32 here.
    assert read_json(whole / "export.json")["farthest"] < 1e-5
    raw = [*texts, "@somebody see https://example.org/a and www.example.org", "x " * 5000]
    found = OnnxModel(whole).probabilities(raw)
    assert np.abs(found[: len(texts)] - saved).max() < 0.01
    normal = OnnxModel(whole).probabilities(["@user see http and http", "x " * 5000])
    assert np.abs(found[-2:] - normal).max() < 1e-6
    assert (small / "model.onnx").stat().st_size < 0.6 * (whole / "model.onnx").stat().st_size
    figures = read_json(small / "export.json")
    assert np.abs(OnnxModel(small).probabilities(texts) - found[: len(texts)]).max() < 0.1
    low, high = figures["intervals"][1]
    assert low < figures["f1_macro"] < high
    assert f"{figures['f1_macro']:.4f} [{low:.3f}, {high:.3f}]" in shown
    assert ("WARNING" in shown) == (abs(100 * (figures["f1_macro"] - figures["run_f1_macro"])) > 0.5)
    assert read_json(whole / "run_args.json")["exported"] == "onnx"
    assert str(tmp_path) not in (whole / "run_args.json").read_text()


@given(st.text("ab@:/. \nhtpsw_é#"), st.booleans(), st.booleans())
def test_texts_are_normalised_alike(text, users, urls):
    model = OnnxModel.__new__(OnnxModel)
    model.task = {"normalize_users": users, "normalize_urls": urls}
    assert model.normalize(text) == normalize(text, users, urls)


def test_mistakes(trained, exported, tmp_path, refused):
    flags = ["--model", trained, "--output_dir"]
    assert "no run" not in refused(export.main, *flags, exported)
    assert "pass --overwrite" in refused(export.main, *flags, exported)
    assert "holds a run" in refused(export.main, *flags, trained)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "holds other files" in refused(export.main, *flags, tmp_path / "mine", "--overwrite")
    assert "exported model already" in refused(export.main, "--model", exported, "--output_dir", tmp_path / "again")
    assert "is not the folder of a run" in refused(export.main, "--model", SAMPLE, "--output_dir", tmp_path / "again")
    assert "--output_dir is missing" in refused(export.main, "--model", trained)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_what_came_into_the_folder_meanwhile_stays(tmp_path):
    place = tmp_path / "exported"
    check = partial(check_new_folder, "output_dir", place, "export.json", True)

    def export_while_somebody_writes():
        with new_folder(place, check) as staging:
            (staging / "export.json").touch()
            place.mkdir()
            (place / "notes.txt").write_text("mine")

    with pytest.raises(UserError, match="holds other files"):
        export_while_somebody_writes()
    assert [path.name for path in tmp_path.rglob("*")] == ["exported", "notes.txt"]
    (place / "notes.txt").unlink()
    left = tmp_path / ".exported.99999999.unfinished"  # of a process that was killed
    left.mkdir()
    with new_folder(place, check) as staging:
        (staging / "export.json").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["export.json", "exported"]


def test_a_changed_model_does_not_predict(exported, tmp_path, refused):
    import shutil

    copy = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    files = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "submission.csv"]
    assert "is not what it was" in refused(make_submission.main, "--model", copy, *files)


def test_a_generator_is_refused_with_the_reason(trained, tmp_path, refused):
    import shutil

    from utils.runs.manifest import write_manifest

    copy = shutil.copytree(trained, tmp_path / "generator")
    arguments = read_json(copy / "run_args.json") | {"script": "run_sft_labels.py"}
    write_json(copy / "run_args.json", arguments)
    write_manifest(copy)
    line = refused(export.main, "--model", copy, "--output_dir", tmp_path / "onnx")
    assert "search over valid answers" in line


def test_the_documented_table_is_the_measured_one():
    from benchmarks.export import table_of

    (measured,) = read_json(ROOT / "benchmarks" / "results" / "export.json")["results"].values()
    assert table_of(measured["models"], markdown=True) in (ROOT / "docs" / "trying-and-serving.md").read_text()
    assert all(row["farthest"] < 1e-3 for row in measured["models"] if not row["int8"])
