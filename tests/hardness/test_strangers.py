"""What comes from strangers runs no code, leaves no folder, and says nothing but what it is."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import make_submission
import predict
import run_classifier
from conftest import SAMPLE, training_flags
from finished_runs import copy_run
from utils.core.errors import UserError
from utils.core.shown import escape_markdown, printable, quote
from utils.hub import pull
from utils.models.generator.label_text import LabelText
from utils.models.generator.prompts import _render
from utils.report.__main__ import main as report_main
from utils.runs.manifest import write_manifest

CODE = "from pathlib import Path\nPath({!r}).touch()\n"


@pytest.fixture
def with_code(tmp_path):
    """Put code into a folder that would leave a file if it were run; returns the folder and the file."""

    def change(source, name):
        folder, trace = tmp_path / name, tmp_path / f"{name} was run"
        shutil.copytree(source, folder)
        (folder / "code.py").write_text(CODE.format(str(trace)))
        for file, classes in {
            "config.json": {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"},
            "tokenizer_config.json": {"AutoTokenizer": ["code.Slow", "code.Fast"]},
        }.items():
            content = json.loads((folder / file).read_text())
            content |= {"auto_map": classes, "model_type": "unheard-of", "tokenizer_class": "Unheard"}
            (folder / file).write_text(json.dumps(content))
        return folder, trace

    return change


def test_code_of_a_run_is_never_run(with_code, trained, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    folder, trace = with_code(trained, "run")
    words = ["--model", folder, "hello"]
    assert "is not what it was when the run was finished" in refused(predict.main, *words)
    write_manifest(folder)  # a stranger's manifest fits their files
    for more in ([], ["--skip_checks"], ["--trust_remote_code"]):
        line = refused(predict.main, *words, *more)
        assert "code of its own" in line
        assert "for the folder of a run never" in line
    assert not trace.exists()


def test_code_of_a_base_model_is_run_only_when_asked_for(with_code, tiny, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    folder, trace = with_code(tiny("roberta"), "base")
    assert "--trust_remote_code" in refused(run_classifier.main, *training_flags(folder, tmp_path / "run"))
    line = refused(run_classifier.main, *training_flags(folder, tmp_path / "run"), "--trust_remote_code")
    assert "--trust_remote_code is for adapters" in line
    assert not trace.exists()
    refused(run_classifier.main, *training_flags(folder, tmp_path / "run"), "--trust_remote_code", "--use_peft")
    assert trace.exists()
    assert not (tmp_path / "run").exists()


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_weights_are_not_read(trained, tiny, refused, tmp_path):
    trace = tmp_path / "unpickled"
    for source, name in ((trained, "run"), (tiny("roberta"), "base")):
        folder = tmp_path / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    line = refused(predict.main, "--model", tmp_path / "run", "--skip_checks", "hello")
    assert "pytorch_model.bin, a pickle" in line
    line = refused(run_classifier.main, *training_flags(tmp_path / "base", tmp_path / "new"))
    assert "pytorch_model.bin, a pickle" in line
    adapter = tmp_path / "adapter"
    shutil.copytree(trained, adapter)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    arguments = json.loads((adapter / "run_args.json").read_text()) | {"model_name_or_path": tiny("roberta")}
    (adapter / "run_args.json").write_text(json.dumps(arguments))
    line = refused(predict.main, "--model", adapter, "--skip_checks", "hello")
    assert "has lost its adapter_model.safetensors" in line
    assert not trace.exists()


@pytest.mark.parametrize("where", ["pytorch_model.bin", "../other/model.safetensors", "/etc/passwd"])
def test_weights_are_not_read_from_elsewhere(trained, tiny, refused, tmp_path, where):
    trace = tmp_path / "unpickled"
    shutil.copytree(trained, tmp_path / "other")
    for source, name in ((trained, "run"), (tiny("roberta"), "base")):
        folder = tmp_path / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(Path(source, "model.safetensors")), where)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_manifest(tmp_path / "run")
    for more in ([], ["--skip_checks"]):
        line = refused(predict.main, "--model", tmp_path / "run", *more, "hello")
        assert f"said to be in {where}: only safetensors in the folder itself" in line
    assert where in refused(run_classifier.main, *training_flags(tmp_path / "base", tmp_path / "new"))
    assert not trace.exists()


def test_weights_that_the_manifest_does_not_know_are_not_read(trained, refused, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    names = load_file(folder / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "weights.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_manifest(folder)
    line = refused(predict.main, "--model", folder, "hello")
    assert "weights.safetensors holds weights and is none of the run's files" in line
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    write_manifest(folder)
    assert "model.safetensors.index.json is damaged" in refused(predict.main, "--model", folder, "hello")


def test_a_run_chooses_no_kernels(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    arguments = json.loads((folder / "run_args.json").read_text()) | {"attn_implementation": "evil/kernel"}
    (folder / "run_args.json").write_text(json.dumps(arguments))
    write_manifest(folder)
    predict.main(["--model", str(folder), "--json", "hello"])
    assert json.loads(capsys.readouterr().out)["text"] == "hello"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_pickles_in_a_checkpoint_run_nothing(undivided, model_without_dropout, refused, tmp_path, name):
    from conftest import undivided_flags

    folder, trace = tmp_path / "run", tmp_path / "unpickled"
    shutil.copytree(undivided, folder)
    for file in ("manifest.json", "all_results.json"):
        (folder / file).unlink()
    shutil.rmtree(folder / "checkpoint-16")
    last = folder / "checkpoint-8"
    (last / name).write_bytes(pickle.dumps(Bomb(trace)))
    (last / "checkpoint_files.json").unlink()
    flags = undivided_flags(model_without_dropout, folder, 8, keep_checkpoints=True, save_total_limit=2)
    assert f"cannot go on from {last}" in refused(run_classifier.main, *flags)
    assert not trace.exists()


def test_an_adapter_names_no_modules_to_import(trained, refused, tiny, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    arguments = json.loads((folder / "run_args.json").read_text()) | {"model_name_or_path": tiny("roberta")}
    (folder / "run_args.json").write_text(json.dumps(arguments))
    for config in ({"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "code"}, {"peft_type": "BONE"}):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        assert "is no LoRA adapter of these scripts" in refused(
            predict.main, "--model", folder, "--skip_checks", "hello"
        )


def test_text_of_the_data_is_shown_as_it_is():
    assert printable("a\x1b[31m\x07\tb\n\u202ec\x9b") == "a\\u001b[31m\\u0007\tb\n\\u202ec\\u009b"
    assert quote("x" * 10**6) == "x" * 80 + "..."
    assert escape_markdown("[a](http://b) <img src=x> | `c` *d* _e_ f_g\nh") == (
        "\\[a](http://b) \\<img src=x> \\| \\`c\\` \\*d\\* \\_e\\_ f_g h"
    )
    assert escape_markdown("0.5 [0.439, 0.527] < 0.001") == "0.5 [0.439, 0.527] < 0.001"


def test_control_characters_and_endless_cells_in_messages(refused, tmp_path):
    rows = "id,text,joy,fear\n1,a,0,1\n2,b,{},1\n3,c,1,0\n4,d,1,1\n"
    for cell in ("\x1b[31mred", "9" * 10**6):
        (tmp_path / "train.csv").write_text(rows.format(cell))
        line = refused(run_classifier.main, *training_flags("m", tmp_path / "r", train_file=tmp_path / "train.csv"))
        assert 'row 3, column "joy"' in line
        assert "\x1b" not in line
        assert len(line) < 400
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "r", train_file=tmp_path / "a\x1b[2Jb.csv"))
    assert "\\u001b[2J" in line


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ text }}",
        "{{ 'a' * 10**10 }}{{ text }}",
        "{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}{{ text }}",
        "{{ 9 ** (9 ** 9) }}{{ text }}",
    ],
)
def test_templates_without_an_end(template):
    with pytest.raises(UserError, match="template"):
        _render(template, LabelText(["joy", "fear"], ["joy", "fear"], "none"), chat=False)


class Sibling:
    def __init__(self, name, size=1):
        self.rfilename, self.size = name, size


class Repository:
    sha = "0" * 40

    def __init__(self, *names):
        self.siblings = [
            Sibling("task.json"),
            *(name if isinstance(name, Sibling) else Sibling(name) for name in names),
        ]


@pytest.mark.parametrize("name", ["../x", "tokenizer/../../x", "/etc/tokenizer.json", "..\\tokenizer.json"])
def test_names_that_leave_the_folder(name):
    with pytest.raises(UserError, match="leads out of its folder"):
        pull._sizes("a/b", Repository(name))


def test_what_is_pulled():
    sizes = pull._sizes("a/b", Repository("config.json", "code.py", "x/tokenizer.json", "pytorch_model.bin", "run.sh"))
    assert sizes == {"task.json": 1, "config.json": 1}
    with pytest.raises(UserError, match=r"has .* left"):
        pull._sizes("a/b", Repository(Sibling("model.safetensors", 10**18)))
    with pytest.raises(UserError, match="does not say how large"):
        pull._sizes("a/b", Repository(Sibling("model.safetensors", None)))
    bar = pull._bounded(10)(disable=True)
    bar.update(10)
    with pytest.raises(ValueError, match="more than the 10 bytes"):
        bar.update(1)


def test_links_in_a_download(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "1").write_text("{}")
    (snapshot / "task.json").symlink_to("../../blobs/1")
    pull._check_links("a/b", str(snapshot))
    (snapshot / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"config.json leads out of"):
        pull._check_links("a/b", str(snapshot))


def test_changed_runs_are_refused(trained, refused, tmp_path):
    """Each of these predicted something else, with exit status 0."""

    def submit(change, *more):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        change(folder)
        words = ["--model", folder, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv"]
        line = refused(make_submission.main, *words, *more)
        assert not (tmp_path / "s.csv").exists()
        return line

    def edit(name, **values):
        def change(folder):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | values))

        return change

    labels = json.loads((trained / "task.json").read_text())["labels"][::-1]
    assert "config.json is not what it was" in submit(edit("config.json", num_hidden_layers=1))
    assert "task.json is not what it was" in submit(edit("task.json", labels=labels, label_columns=labels))
    assert "has lost its tokenizer.json" in submit(lambda folder: (folder / "tokenizer.json").unlink())
    assert "vocab.txt was not there" in submit(lambda folder: (folder / "vocab.txt").write_text("a"))
    weights = trained / "model.safetensors"

    def flip_a_bit(folder):
        content = bytearray(weights.read_bytes())
        content[-10] ^= 64
        (folder / "model.safetensors").write_bytes(content)

    assert "model.safetensors is not what it was" in submit(flip_a_bit, "--check_weights")


def test_a_tokenizer_without_its_words(trained, refused, tmp_path):
    """transformers makes an empty tokenizer, also where the checks are skipped."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "tokenizer.json").unlink()
    for script in ("run_classifier.py", "run_sft_labels.py"):
        arguments = json.loads((folder / "run_args.json").read_text()) | {"script": script}
        (folder / "run_args.json").write_text(json.dumps(arguments))
        (folder / "generation.json").write_text("{}")
        assert "has lost its tokenizer.json" in refused(predict.main, "--model", folder, "--skip_checks", "hello")


def test_a_report_of_results_that_lack_a_score(trained, refused, tmp_path):
    folder = copy_run(trained, tmp_path / "run")
    results = json.loads((folder / "all_results.json").read_text())
    results["another"] = results.pop("eval_jaccard")
    (folder / "all_results.json").write_text(json.dumps(results))
    assert "--skip_checks" in refused(report_main, folder)
    assert "do not fit together (KeyError: 'jaccard')" in refused(report_main, folder, "--skip_checks")
