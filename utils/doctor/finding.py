"""What the doctor says: findings, the checks behind them, and the file of a run that keeps both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils.core.files import read_json_object, read_part, write_json
from utils.core.shown import join_names

DOCTOR_FILE = "doctor.json"
PROBLEM, WARNING = "problem", "warning"  # the model is of no use as it is; or worse, or less well known, than need be


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Args:
        kind: its name in `doctor.json`, such as `never_given`.
        what: a sentence with the figures.
        remedy: what to do.
        severity: PROBLEM or WARNING.
        figures: the figures by name.
        labels: that it is about; none: it is about the run.
        because: kind of the finding that this one follows from; empty where it stands for itself.
    """

    kind: str
    what: str
    remedy: str
    severity: str = WARNING
    figures: dict[str, float] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    because: str = ""

    @property
    def brief(self) -> str:
        """The first clause of `what`, without what stands in brackets."""
        return re.sub(r" \([^()]*\)", "", self.what).split(": ")[0]


@dataclass(frozen=True)
class Check:
    """Something that was looked at.

    Args:
        title: what.
        seen: its figures in words, whether or not they are fine.
        findings: what is wrong with them.
    """

    title: str
    seen: str
    findings: Sequence[Finding] = ()


@dataclass
class Diagnosis:
    """What the doctor says of a run.

    Args:
        checks: what was looked at, in the order of reading.
        baselines: scores of simple methods on the same rows, as `utils.doctor.baselines` gives them.
        reference: figures to compare new texts with, as `utils.doctor.drift` takes them.
    """

    checks: list[Check]
    baselines: list[dict[str, Any]] = field(default_factory=list)
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, problems first; without what only follows from it."""
        found = [finding for finding in self._all if not finding.because]
        return sorted(found, key=lambda finding: finding.severity != PROBLEM)

    @property
    def _all(self) -> list[Finding]:
        return [finding for check in self.checks for finding in check.findings]

    def consequences(self, finding: Finding) -> str:
        """What probably follows from a finding, in a sentence; empty where nothing does."""
        following = [one.brief for one in self._all if one.because == finding.kind]
        return f"Probably because of it: {'; '.join(following)}" if following else ""

    @property
    def headline(self) -> str:
        """A line that says how many findings there are."""
        number, kinds = len(self.checks), [finding.severity for finding in self.findings]
        counts = [_count(kinds.count(kind), kind) for kind in (PROBLEM, WARNING) if kind in kinds]
        return f"The doctor looked at this run ({_count(number, 'check')}): {' and '.join(counts) or 'nothing wrong'}."

    def text(self) -> str:
        """The findings for the terminal."""
        return "\n".join([self.headline, *finding_lines(self.findings, self.consequences)])

    def save(self, folder: str | Path) -> None:
        """Write `doctor.json`; it quotes no text of the data but single signs."""
        content = {
            "findings": [asdict(finding) for finding in (*self.findings, *(one for one in self._all if one.because))],
            "checks": [asdict(check) for check in self.checks],
            "baselines": self.baselines,
            "reference": self.reference,
        }
        write_json(Path(folder) / DOCTOR_FILE, content)

    @classmethod
    def load(cls, folder: str | Path) -> Diagnosis | None:
        """What the doctor said of a finished run; None for a run of before there was one.

        Raises:
            UserError: for a damaged file.
        """
        if not Path(folder, DOCTOR_FILE).exists():
            return None

        def read(path: Path) -> Diagnosis:
            content = read_json_object(path)
            checks = [
                Check(check["title"], check["seen"], [Finding(**finding) for finding in check["findings"]])
                for check in content["checks"]
            ]
            texts = [text for check in checks for text in (check.title, check.seen)]
            texts += [text for check in checks for one in check.findings for text in (one.what, one.remedy, one.kind)]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a finding must be text")
            return cls(checks, list(content["baselines"]), dict(content["reference"]))

        return read_part(folder, DOCTOR_FILE, read)


def finding_lines(findings: Iterable[Finding], consequences: Callable[[Finding], str] | None = None) -> list[str]:
    """Lines for each finding: what is wrong, what follows from it, and what to do.

    Args:
        findings: to show.
        consequences: says what follows from one.
    """
    lines = []
    for finding in findings:
        lines.append(f"  {finding.severity.upper()}: {finding.what}")
        if consequences is not None and (following := consequences(finding)):
            lines.append(f"    {following}")
        lines.append(f"    What to do: {finding.remedy}")
    return lines


def problems_of(folder: str | Path) -> str | None:
    """What a finished run is warned of before it predicts: its problems in a line; None where there are none.

    Raises:
        UserError: for a damaged file.
    """
    diagnosis = Diagnosis.load(folder)
    problems = [finding for finding in diagnosis.findings if finding.severity == PROBLEM] if diagnosis else []
    if not problems:
        return None
    return f"{folder}: the doctor found {_count(len(problems), 'problem')} after its training: {problems[0].what}"


def name_labels(labels: Sequence[str], of: int) -> str:
    """Labels in a sentence: `label "joy"`, `3 of 11 labels (joy, love, trust)`, `all 11 labels`."""
    if len(labels) == of > 1:
        return f"all {of} labels"
    if len(labels) == 1:
        return f'the label "{join_names(labels)}"'
    return f"{len(labels)} of {of} labels ({join_names(labels, 6)})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
