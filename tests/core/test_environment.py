"""The page for bug reports: true versions, no secrets, and an answer on machines where little works."""

import sys
from importlib.metadata import version

import pytest

from conftest import ROOT, run_script

NO_TORCH = "raise OSError('libcudart.so.13: cannot open shared object file')"
ODD_TORCH = "get_num_threads = lambda: 3"
TWO_GPUS = """
from types import SimpleNamespace as Names

version = Names(cuda="13.0")
get_num_threads = lambda: 4
cpu = Names(get_capabilities=lambda: {})
accelerator = Names(current_accelerator=lambda check_available: Names(type="cuda"))
cards = [
    Names(name="H100", total_memory=80 * 2**30, major=9, minor=0),
    Names(name="T4", total_memory=15 * 2**30, major=7, minor=5),
]
cuda = Names(device_count=lambda: 2, get_device_properties=lambda i: cards[i])
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Run the command line, with a torch of this source or the one that is installed; returns its text and rows."""

    def call(torch=None):
        if torch is not None:
            (tmp_path / "torch.py").write_text(torch, encoding="utf-8")
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        done = run_script("-m", "utils.core.environment")
        assert done.returncode == 0, done.stderr
        sections = {}
        for line in done.stdout.splitlines():
            if line.startswith("  "):
                name, _, value = line.strip().partition("  ")
                list(sections.values())[-1][name] = value.strip()
            elif line:
                sections[line] = {}
        return done.stdout, sections

    return call


def test_versions_devices_and_code(page):
    _, sections = page()
    assert list(sections) == ["versions", "devices", "settings", "code"]
    versions = sections["versions"]
    assert versions["python"].startswith(sys.version.split()[0])
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes"):
        assert versions[name] == version(name)
    assert "cores usable" in sections["devices"]["cpu"]
    assert sections["devices"]["accelerator"].startswith("none")
    assert sections["settings"]["OMP_NUM_THREADS"] == "1"
    if (ROOT / ".git").exists():
        assert len(sections["code"]["commit"]) == 40


def test_secrets_are_not_shown(page, monkeypatch):
    secrets = {
        "HF_TOKEN": "hf_planted1",
        "WANDB_API_KEY": "planted2" * 5,
        "HF_HUB_PASSWORD": "planted3",
        "WANDB__EXTRA_HTTP_HEADERS": "{'X': 'planted4'}",
        "HF_ENDPOINT": "https://me:planted5/planted6@hub.example/path",
        "WANDB_BASE_URL": "https://planted7@wandb.example/?api_key=planted8&x=1",
        "WANDB_NOTES": "token: planted9, then hf_planted10planted10planted10",
        "NCCL_DEBUG_FILE": "/tmp/hf_planted1.log",
        "WANDB_SWEEP_PARAM_PATH": "planted11" * 5,
        "MY_PASSWORD": "planted12",  # of no interest here, but it may stand in a value
        "WANDB_NAME": "run-planted12",
        "WANDB_USERNAME": "two\nlines \udcff",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/planted13")
    monkeypatch.setenv("TMPDIR", "/home/planted13/tmp")
    text, sections = page(NO_TORCH)
    assert "planted" not in text
    settings = sections["settings"]
    assert settings["HF_TOKEN"] == settings["WANDB_API_KEY"] == "(set, not shown)"
    assert settings["HF_ENDPOINT"] == "https://***@hub.example/path"
    assert settings["WANDB_NAME"] == "run-***"
    assert settings["WANDB_USERNAME"] == "two lines \\udcff"
    assert settings["TMPDIR"] == "~/tmp"
    assert settings["TOKENIZERS_PARALLELISM"] == "false"  # TOKEN is in its name, but it is none
    assert "MY_PASSWORD" not in text


def test_default_configuration_of_accelerate(page, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert page(NO_TORCH)[1]["settings"]["default_config.yaml"].startswith("none")
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").touch()
    assert "reads it" in page(NO_TORCH)[1]["settings"]["default_config.yaml"]


@pytest.mark.parametrize(
    ("torch", "rows"),
    [
        (NO_TORCH, {"torch": "cannot be imported: libcudart.so.13"}),
        (ODD_TORCH, {"threads": "3", "bf16 of the cpu": "unknown", "gpu": "unknown"}),
        (TWO_GPUS, {"gpu 0": "H100, 80.0 GiB, capability 9.0, bf16", "gpu 1": "T4, 15.0 GiB, capability 7.5, no bf16"}),
    ],
    ids=["no torch", "odd torch", "two GPUs"],
)
def test_other_machines(page, torch, rows):
    devices = page(torch)[1]["devices"]
    for name, value in rows.items():
        assert devices[name].startswith(value)


def test_without_git(page, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert page(NO_TORCH)[1]["code"]["commit"].startswith("unknown")


def test_help_and_unknown_flags():
    assert "bug report" in run_script("-m", "utils.core.environment", "--help").stdout
    done = run_script("-m", "utils.core.environment", "--everything")
    assert done.returncode == 2
    assert "--everything" in done.stderr
