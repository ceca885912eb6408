"""Splitting rows: every part gets its share of every label, and near-duplicates stay on the same side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from utils.data.text import near_duplicate_key


def near_duplicate_groups(texts: Iterable[str]) -> np.ndarray:
    """Number the groups of near-duplicate texts, in the order in which they first appear.

    Args:
        texts: N texts; 8 bytes of each are kept in memory.

    Returns:
        int array `[N]`: texts with the same `near_duplicate_key` have the same number.
    """
    digests = (hashlib.blake2b(near_duplicate_key(text).encode(), digest_size=8).digest() for text in texts)
    return pd.factorize(np.frombuffer(b"".join(digests), dtype=np.uint64))[0].astype(np.int64)


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
    labels, groups = (np.asarray(labels) >= 0.5).astype(np.int64), np.asarray(groups)
    rng = np.random.default_rng(seed)
    # "No label" is stratified like a label; the last column counts all rows and places the groups that remain.
    columns = np.column_stack([labels, labels.sum(axis=1) == 0, np.ones(len(labels), dtype=np.int64)])
    _, group_of_row = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_of_row.max() + 1, columns.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of_row, columns)

    wanted = np.outer(fractions, counts.sum(axis=0)).astype(float)
    part_of_group = np.full(len(counts), -1)
    remaining = counts.sum(axis=0)
    while remaining.any():
        label = np.argmin(np.where(remaining > 0, remaining, np.iinfo(np.int64).max))
        members = rng.permutation(np.flatnonzero((counts[:, label] > 0) & (part_of_group < 0)))
        # Large groups first: the small ones then even out the parts.
        for group in members[np.argsort(-counts[members, label], kind="stable")]:
            # The part that lacks most of this label; among equals most rows; then a random one.
            part = np.lexsort((rng.random(len(fractions)), wanted[:, -1], wanted[:, label]))[-1]
            part_of_group[group] = part
            wanted[part] -= counts[group]
            remaining -= counts[group]
    return part_of_group[group_of_row]
