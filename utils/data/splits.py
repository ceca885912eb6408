"""Splitting rows: every part gets its share of every label, and near-duplicates stay on the same side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.text import near_duplicate_key

if TYPE_CHECKING:
    import scipy.sparse


def near_duplicate_groups(texts: Iterable[str]) -> np.ndarray:
    """Number the groups of near-duplicate texts, in the order in which they first appear.

    Args:
        texts: N texts; 8 bytes of each are kept in memory.

    Returns:
        int array `[N]`: texts with the same `near_duplicate_key` have the same number.
    """
    return number_groups(near_duplicate_digests(texts))


def near_duplicate_digests(texts: Iterable[str]) -> np.ndarray:
    """64 bits of each text, uint64 `[N]`: the same where the `near_duplicate_key` is."""
    digests = (hashlib.blake2b(near_duplicate_key(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def number_groups(digests: np.ndarray) -> np.ndarray:
    """Numbers of the groups of equal digests, in the order in which they first appear: int array `[N]`."""
    return pd.factorize(digests)[0].astype(np.int64)


def assign_parts(
    labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float] | np.ndarray, seed: int
) -> np.ndarray:
    """Assign each row to a part, stratified over the labels, with the rows of a group together.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1) over groups instead of rows: the
    label with the fewest rows left goes first, and each of its groups goes to the part that lacks that label most.

    Args:
        labels: 0/1 array `[N, L]`; what is below 0.5 or unknown (NaN) counts as 0.
        groups: int array `[N]`.
        fractions: share of the rows wanted in each of the K parts, sum 1.
        seed: decides the order of the groups, and ties.

    Returns:
        int array `[N]` with values 0 to K - 1.
    """
    rng = np.random.default_rng(seed)
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    counts = _count_labels(np.asarray(labels) >= 0.5, group_of_row)
    of_label = counts.tocsc()

    remaining = np.asarray(counts.sum(axis=0)).ravel()
    wanted = np.outer(fractions, remaining).astype(float)
    part_of_group = np.full(counts.shape[0], -1)
    while remaining.any():
        label = np.argmin(np.where(remaining > 0, remaining, np.iinfo(np.int64).max))
        here = slice(of_label.indptr[label], of_label.indptr[label + 1])
        members, rows = of_label.indices[here], of_label.data[here]
        free = part_of_group[members] < 0
        order = rng.permutation(int(free.sum()))
        members, rows = members[free][order], rows[free][order]
        # Large groups first: the small ones then even out the parts.
        members = members[np.argsort(-rows, kind="stable")]
        for group in members:
            # The part that lacks most of this label; among equals most rows; then a random one.
            part = np.lexsort((rng.random(len(fractions)), wanted[:, -1], wanted[:, label]))[-1]
            part_of_group[group] = part
            cells = slice(counts.indptr[group], counts.indptr[group + 1])
            wanted[part, counts.indices[cells]] -= counts.data[cells]
        remaining = remaining - np.asarray(counts[members].sum(axis=0)).ravel()
    return part_of_group[group_of_row]


def _count_labels(labels: np.ndarray, group_of_row: np.ndarray) -> scipy.sparse.csr_array:
    """Rows of each group that have each label, `[G, L + 2]`; sparse, as rows have few of many labels.

    "No label" is stratified like a label; the last column counts all rows and places the groups that remain.

    Args:
        labels: booleans `[N, L]`.
        group_of_row: numbers of the groups, `[N]`.
    """
    import scipy.sparse

    rows, columns = np.nonzero(labels)
    none = np.flatnonzero(~labels.any(axis=1))
    everything = np.arange(len(labels))
    of = group_of_row[np.concatenate([rows, none, everything])]
    places = [columns, np.full(len(none), labels.shape[1]), np.full(len(labels), labels.shape[1] + 1)]
    shape = (int(group_of_row.max()) + 1, labels.shape[1] + 2)
    cells = scipy.sparse.coo_array((np.ones(len(of), dtype=np.int64), (of, np.concatenate(places))), shape=shape)
    counts = cells.tocsr()  # which adds up what stands in one cell
    counts.sort_indices()
    return counts
