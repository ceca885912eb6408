"""Files that cannot be written, and output that nobody reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from utils.core.errors import UserError
from utils.core.files import atomic_path, write_text


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    places = {
        Path("/proc/x/s.csv"): "No such file or directory",
        tmp_path / "file" / "s.csv": "its folder is a file",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path: "Is a directory",
        Path("/"): "Is a directory",
    }
    for path, reason in places.items():
        with pytest.raises(UserError, match=f"{path}: .*{reason}") as info, atomic_path(path):
            pytest.fail("the work was done")
        assert "\n" not in str(info.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_errors_while_writing(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("old")
    with pytest.raises(UserError, match=f"{path}: No space left on device"), atomic_path(path):
        Path("/dev/full").write_text("a full disk")
    # What has nothing to do with the file stays what it is.
    with pytest.raises(FileNotFoundError, match="none"), atomic_path(path):
        Path(tmp_path / "none").read_text()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


CODE = """
import os, sys
from utils.core.errors import exit_on_user_error
@exit_on_user_error
def main():
    {}
main()
"""


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("for line in range(100000): print(line)", 141, ""),
        ("print(1)", 141, ""),  # written when the script ends
        ("os.write(1, b'1')", 141, ""),
        ("read, write = os.pipe(); os.close(read); os.write(write, b'1')", 1, "BrokenPipeError"),
    ],
)
def test_output_that_nobody_reads(body, status, error):
    read, write = os.pipe()
    if not error:
        os.close(read)
    command = [sys.executable, "-c", CODE.format(body)]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, bool(done.stderr)) == (status, bool(error)), done.stderr
    assert error in done.stderr
    for end in [write] if not error else [read, write]:
        os.close(end)


@pytest.mark.parametrize("body", ["print(1)", "for line in range(100000): print(line)", "print(1, flush=True)"])
def test_output_to_a_full_disk(body):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", CODE.format(body)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    told = "error: [Errno 28] No space left on device: free some space, or write to another disk\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_closed_output_is_no_error():
    command = f'{sys.executable} -c "{CODE.format("print(1)")}" >&-'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
