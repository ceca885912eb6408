"""Make report.html and the pictures of finished runs again, from their folders alone.

python -m utils.report outputs/run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.core.errors import UserError
from utils.core.log import say
from utils.core.parser import option, script
from utils.core.shown import printable


@dataclass
class ReportArguments:
    """Which runs to make reports of."""

    runs: list[str] = option(None, "folders of finished runs; the flag itself may be left out")

    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")

    def __post_init__(self):
        if not self.runs:
            raise UserError("name the folders of finished runs: python -m utils.report outputs/run")


@script(__doc__, [ReportArguments], words="runs")
def main(args: ReportArguments) -> None:
    """Make the reports of the run folders named."""
    from utils.report.page import write_run_report  # loads matplotlib
    from utils.runs.folder import MANIFEST_FILE, RESULTS_FILE
    from utils.runs.manifest import check_files, write_manifest

    for folder in args.runs:
        if not args.skip_checks:
            check_files(folder)
        try:
            page = write_run_report(folder)
        except (KeyError, TypeError, ValueError) as error:
            if not args.skip_checks:  # then it is a mistake of ours
                raise
            raise UserError(
                f"{folder}: its files do not fit together ({type(error).__name__}: {error}): undo the change, or leave "
                "--skip_checks out, which says what was changed"
            ) from error
        if not Path(folder, MANIFEST_FILE).exists() and Path(folder, RESULTS_FILE).exists():
            write_manifest(folder)  # of an earlier version: from now on its files are checked
        say(f"report: {printable(str(page))}")


if __name__ == "__main__":
    main()
