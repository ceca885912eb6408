"""One command at a time in the folder of a run."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from utils.core.errors import UserError
from utils.core.files import unwritable_as_user_error, write_text

LOCK_FILE = ".lock"
OWNER_FILE = ".lock_owner.json"


class RunLock:
    """The lock of a run's folder, of the operating system's kind: that of a process that has died is free.

    Args:
        output_dir: folder of the run, which need not exist yet.
    """

    def __init__(self, output_dir: str | Path):
        self.folder = Path(output_dir)
        # The same process may train in the same folder again, as tests and notebooks do.
        self.lock = FileLock(self.folder / LOCK_FILE, timeout=0, is_singleton=True)

    def check(self) -> None:
        """Refuse a folder in which another process is at work, without writing to it.

        Raises:
            UserError: that names the other process.
        """
        if not (self.folder / LOCK_FILE).exists() or self.lock.is_locked:
            return
        try:
            self.lock.acquire()
            self.lock.release()
        except Timeout as error:
            raise self._is_taken() from error
        except OSError:
            return  # a folder that may not be written to is refused when the run begins

    def acquire(self) -> None:
        """Take the lock, until `release` or the end of the process.

        Raises:
            UserError: where another process has it, and for a folder that cannot be written to.
        """
        with unwritable_as_user_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire()
            except Timeout as error:
                raise self._is_taken() from error
        owner = {"process": os.getpid(), "host": platform.node(), "command": shlex.join(sys.argv)[:500]}
        write_text(self.folder / OWNER_FILE, json.dumps(owner) + "\n")

    def release(self) -> None:
        """Give the lock back and remove its files."""
        for name in (OWNER_FILE, LOCK_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.lock.release(force=True)

    def _is_taken(self) -> UserError:
        try:
            owner = json.loads((self.folder / OWNER_FILE).read_text(encoding="utf-8"))
            who = f"process {owner['process']} on {owner['host']} ({owner['command']})"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return UserError(
            f"--output_dir {self.folder}: {who} is at work in it: wait for its end, or choose another folder"
        )
