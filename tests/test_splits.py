import csv

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SAMPLE
from utils.splits import assign_parts, near_duplicate_groups
from utils.text import near_duplicate_key, normalize


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 80))
@settings(deadline=None, max_examples=60)
def test_groups_stay_together_and_every_row_has_a_part(seed, parts, rows):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, (rows, 3)), rng.integers(0, rows // 2 + 1, rows)
    assigned = assign_parts(labels, groups, np.full(parts, 1 / parts), seed)
    assert set(assigned) <= set(range(parts))
    assert all(len(set(assigned[groups == group])) == 1 for group in groups)
    assert np.array_equal(assigned, assign_parts(labels, groups, np.full(parts, 1 / parts), seed))


def test_rare_labels_are_spread_evenly():
    with open(SAMPLE / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([[int(value) for value in list(row.values())[2:]] for row in rows])
    parts = assign_parts(labels, np.arange(len(rows)), np.full(5, 0.2), seed=0)
    counts = np.array([labels[parts == part].sum(axis=0) for part in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 2
    assert np.ptp(np.bincount(parts)) <= 0.1 * len(rows)


def test_near_duplicates():
    texts = [
        "So happy today! #joy #blessed",
        "so happy   today @friend https://t.co/abc",
        "So happy today!\\n\\n#smile",
        "So sad today! #joy",
        "#joy",
        "#sad",
        "😂😂",
        "😭",
    ]
    assert list(near_duplicate_groups(texts)) == [0, 0, 0, 1, 2, 3, 4, 5]
    assert near_duplicate_key("I'm FINE") == "i m fine"


def test_normalizing_touches_nothing_else():
    text = "@ann_b look at #this 😂 me@mail.example https://t.co/x1 www.site.example"
    assert normalize(text) == text
    assert normalize(text, users=True).startswith("@user look at #this 😂 me@mail.example https://t.co/x1")
    assert normalize(text, urls=True) == "@ann_b look at #this 😂 me@mail.example http http"
