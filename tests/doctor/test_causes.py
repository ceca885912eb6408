"""One problem for one cause: what follows from a finding is told with it."""

import pytest

from utils.doctor.causes import EXPLAINS, name_causes
from utils.doctor.finding import PROBLEM, WARNING, Check, Diagnosis, Finding


def diagnose(*findings):
    return Diagnosis(name_causes([Check(finding.kind, "", [finding]) for finding in findings]))


def find(kind, severity=WARNING, labels=(), what="", **figures):
    return Finding(kind, what or f"{kind} (in brackets): more of it", "a remedy", severity, figures, list(labels))


BELOW, CHANCE, SAME = (find(kind, PROBLEM) for kind in ("below_baseline", "chance", "same_for_every_text"))


@pytest.mark.parametrize(
    ("cause", "others"),
    [
        (find("time_limit"), [find("not_trained", PROBLEM), SAME, CHANCE, BELOW]),
        (find("not_trained", PROBLEM), [SAME, BELOW]),
        (find("texts_cut", share=0.72), [find("chance_for_labels", labels=["joy"]), BELOW]),
        (find("scripts_differ"), [find("always_given", labels=["joy"]), BELOW]),
        (SAME, [CHANCE, BELOW]),
        (find("chance", PROBLEM, linear_at_chance=1.0), [SAME, BELOW]),
        (find("still_learning"), [BELOW]),
    ],
)
def test_a_cause_is_told_once(cause, others):
    for findings in ([cause, *others], [*others, cause]):
        diagnosis = diagnose(*findings)
        assert [finding.kind for finding in diagnosis.findings] == [cause.kind]
        assert diagnosis.findings[0].severity == PROBLEM if any(one.severity == PROBLEM for one in findings) else True
        text = diagnosis.text()
        assert "1 problem." in text.splitlines()[0]
        assert text.count("PROBLEM") == 1
        told = next(line for line in text.splitlines() if "Probably because of it: " in line)
        assert set(told.split("of it: ")[1].split("; ")) == {other.kind for other in others}


def test_what_has_another_cause_stands_for_itself():
    for findings in (
        [find("texts_cut", share=0.1), BELOW],  # too few tokens to explain it
        [find("unknown_tokens", share=0.2), BELOW],
        [find("never_seen", PROBLEM, ["fear"]), find("chance_for_labels", labels=["fear", "sadness"])],
        [find("same_for_every_text", labels=["fear"]), BELOW],  # a label of many
        [find("leaks", PROBLEM), BELOW],
        [find("chance", PROBLEM, linear_at_chance=0.0), find("leaks", PROBLEM)],
    ):
        assert {finding.kind for finding in diagnose(*findings).findings} == {finding.kind for finding in findings}
    diagnosis = diagnose(find("never_seen", PROBLEM, ["fear"]), find("rates_differ", labels=["fear"]))
    assert [finding.kind for finding in diagnosis.findings] == ["never_seen"]


def test_whether_a_linear_model_learns_says_whether_texts_and_labels_belong_together():
    related = diagnose(SAME, find("chance", PROBLEM, linear_at_chance=0.0))
    unrelated = diagnose(SAME, find("chance", PROBLEM, linear_at_chance=1.0))
    assert [[one.kind for one in diagnosis.findings] for diagnosis in (related, unrelated)] == [
        ["same_for_every_text"],
        ["chance"],
    ]


def test_everything_stays_in_the_file(tmp_path):
    diagnosis = diagnose(BELOW, SAME)
    diagnosis.save(tmp_path)
    loaded = Diagnosis.load(tmp_path)
    assert loaded.findings == diagnosis.findings
    assert loaded.consequences(loaded.findings[0]) == "Probably because of it: below_baseline"
    import json

    stored = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    assert [(one["kind"], one["because"]) for one in stored] == [
        ("same_for_every_text", ""),
        ("below_baseline", "same_for_every_text"),
    ]


def test_no_cause_explains_itself():
    """Directly or through others: each finding would follow from another then, and none would be told."""

    def reached(kind, seen=()):
        assert kind not in seen
        for other in EXPLAINS.get(kind, ()):
            if {kind, other} != {"chance", "same_for_every_text"}:  # only ever one way: see above
                reached(other, (*seen, kind))

    for kind in EXPLAINS:
        reached(kind)
