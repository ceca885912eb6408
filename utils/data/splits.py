"""Splitting rows so that every part has its share of every label and no near-duplicates stand on two sides."""

import hashlib

import numpy as np
import pandas as pd

from utils.data.text import near_duplicate_key


def near_duplicate_groups(texts):
    """Number the groups of near-duplicate texts, in the order in which they first appear.

    Args:
        texts: iterable of N texts; of each, 8 bytes are kept.

    Returns:
        int array `[N]`: texts with the same `near_duplicate_key` have the same number.
    """
    digests = (hashlib.blake2b(near_duplicate_key(text).encode(), digest_size=8).digest() for text in texts)
    return pd.factorize(np.frombuffer(b"".join(digests), dtype=np.uint64))[0].astype(np.int64)


def assign_parts(labels, groups, fractions, seed):
    """Assign each row to a part, stratified over the labels, with the rows of a group together.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1) over groups instead of rows: the
    label with the fewest rows left goes first, each of its groups to the part that still wants most of that label.

    Args:
        labels: 0/1 array `[N, L]`.
        groups: int array `[N]`.
        fractions: share of the rows wanted in each of the K parts, sum 1.
        seed: order of the groups, and ties.

    Returns:
        int array `[N]` with values 0 to K - 1.
    """
    labels, groups = np.asarray(labels, dtype=np.int64), np.asarray(groups)
    rng = np.random.default_rng(seed)
    # Rows without a label are stratified like a label; the last column counts rows and takes what is left over.
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
        # Large groups first: the small ones after them even the parts out.
        for group in members[np.argsort(-counts[members, label], kind="stable")]:
            # Most of this label wanted; then most rows wanted; then by lot.
            part = np.lexsort((rng.random(len(fractions)), wanted[:, -1], wanted[:, label]))[-1]
            part_of_group[group] = part
            wanted[part] -= counts[group]
            remaining -= counts[group]
    return part_of_group[group_of_row]
