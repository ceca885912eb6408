"""Working on the rows of a data set by batches, with all cores where there are many of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import datasets

from utils.core.progress import show_progress_of

# Below this many rows starting more processes costs more than it saves.
ROWS_PER_PROCESS = 20_000


def processes_for(rows: int) -> int:
    """How many processes so many rows are worth."""
    return max(1, min(os.cpu_count() or 1, rows // ROWS_PER_PROCESS))


def map_rows(rows: datasets.Dataset, function: Callable, key: str, desc: str, **options: Any) -> datasets.Dataset:
    """`rows.map(function)` by batches, with all cores where there are many rows, and cached.

    Args:
        rows: data set.
        function: of a batch of rows, as `datasets` wants it.
        key: name of the result in the cache. `datasets` would derive it from what the function refers to, such as a
            tokenizer, whose state changes with every use.
        desc: what its progress says.
        options: of `Dataset.map`.
    """
    show_progress_of(datasets.utils.tqdm)
    processes = processes_for(len(rows))
    return rows.map(
        function,
        batched=True,
        num_proc=processes if processes > 1 else None,
        new_fingerprint=key,
        desc=desc,
        **options,
    )
