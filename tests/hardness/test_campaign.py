"""The fast part of `python -m benchmarks.hardness`: the same seeds every time."""

import subprocess

import pytest

from conftest import ROOT, WARM_PYTHON


@pytest.mark.processes
def test_a_short_campaign_finds_nothing():
    command = [WARM_PYTHON, "-m", "benchmarks.hardness", "--most", "0.02", "--minutes", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == ["table", "flags", "folder", "kill", "prediction"]
    assert all(int(row[1]) > 0 and row[-1] == "0" for row in rows[2:]), done.stdout


@pytest.mark.processes
def test_memory_of_a_long_training_stays_flat():
    """A short version of what tries 20,000 steps."""
    command = [WARM_PYTHON, "-m", "benchmarks.hardness.soak", "--steps", "400"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "400 steps in" in done.stdout
