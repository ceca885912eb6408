"""Which findings follow from others, so that a person reads one problem for one cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from utils.doctor.finding import PROBLEM, Check, Finding

# What a model does that has learnt little, whatever the reason.
OF_LABELS = ("chance_for_labels", "never_given", "always_given", "threshold_at_edge")
POOR = ("same_for_every_text", "chance", *OF_LABELS, "below_baseline")
OTHER_TEXTS = (*POOR, "mislabelled", "lengths_differ", "unknown_tokens_differ")
# Kinds of findings, and what they may be the cause of; where several are, the first.
EXPLAINS = {
    "time_limit": ("not_trained", "still_learning", *POOR),
    "not_trained": POOR,
    "exchanged_labels": (*POOR, "mislabelled"),
    "scripts_differ": (*OTHER_TEXTS, "languages_differ"),
    "languages_differ": OTHER_TEXTS,
    "never_seen": ("rates_differ", "mislabelled", *OF_LABELS),
    "texts_cut": POOR,
    "unknown_tokens": POOR,
    "still_learning": ("same_for_every_text", *OF_LABELS, "below_baseline"),
    "overfitted": ("below_baseline",),
    "mislabelled": ("chance_for_labels",),
    "same_for_every_text": ("chance", *OF_LABELS, "below_baseline"),
    "chance": ("same_for_every_text", *OF_LABELS, "below_baseline"),
    "few_rows": OF_LABELS,
    "chance_for_labels": ("never_given", "always_given", "threshold_at_edge"),
}
# Where a smaller share of the tokens or texts is lost, a poor model has another cause.
LARGE_SHARE = {"texts_cut": 0.25, "unknown_tokens": 0.5}
# Findings about all of the model, which a label or two does not explain.
OF_ALL = ("same_for_every_text", "chance", "below_baseline")


def name_causes(checks: Sequence[Check]) -> list[Check]:
    """The checks with their findings marked that follow from another, which is as severe as the worst of them."""
    found = [finding for check in checks for finding in check.findings]
    causes = {id(finding): cause for finding in found if (cause := _cause_of(finding, found)) is not None}
    worse = {id(cause) for key, cause in causes.items() for one in found if id(one) == key and one.severity == PROBLEM}

    def told(finding: Finding) -> Finding:
        if id(finding) in causes:
            return replace(finding, because=causes[id(finding)].kind)
        return replace(finding, severity=PROBLEM) if id(finding) in worse else finding

    return [replace(check, findings=[told(finding) for finding in check.findings]) for check in checks]


def _cause_of(finding: Finding, found: Sequence[Finding]) -> Finding | None:
    """The first cause among all findings, which has none itself; None for a finding that stands for itself."""
    for kind in EXPLAINS:
        for cause in found:
            if cause.kind == kind and cause is not finding and _explains(cause, finding):
                return _cause_of(cause, found) or cause
    return None


def _explains(cause: Finding, finding: Finding) -> bool:
    if finding.kind not in EXPLAINS[cause.kind]:
        return False
    # Where a linear model is at chance too, texts and labels do not belong together, and nothing can learn them.
    unrelated = (cause if cause.kind == "chance" else finding).figures.get("linear_at_chance") == 1.0
    if {cause.kind, finding.kind} == {"chance", "same_for_every_text"} and unrelated != (cause.kind == "chance"):
        return False
    if cause.figures.get("share", 1.0) < LARGE_SHARE.get(cause.kind, 0.0):
        return False
    some_labels = bool(cause.labels) and cause.kind != "exchanged_labels" and cause.severity != PROBLEM
    if cause.kind == "never_seen" or some_labels:
        return finding.kind not in OF_ALL and (not finding.labels or set(finding.labels) <= set(cause.labels))
    return True
