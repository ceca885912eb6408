"""Cells of a column that is one label: what they say is decided in `cell_values`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.tables import Table

# Ways to write 0 and 1, in lower case.
BINARY_CELLS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
# Words that are 0 and 1 where a column holds both of a pair; a column of nothing but "no" or "F" is metadata.
YES_AND_NO = (("yes", "no"), ("y", "n"), ("t", "f"))
ALL_BINARY_CELLS = BINARY_CELLS | {word: 1 - i for pair in YES_AND_NO for i, word in enumerate(pair)}
# What stands in a cell that nobody has annotated, where `--unknown_labels` says that there are such cells.
UNKNOWN_CELLS = ("", "-1", "-1.0", "nan")


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, numbers or booleans, rather than lists, bytes and the like."""
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_null,
        )
    )


def is_text(table: Table, name: str) -> bool:
    """Whether a column holds texts."""
    kind = table.column(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def binary_codes(column: pa.ChunkedArray) -> np.ndarray:
    """What the cells of a label column say: 0, 1, or -1 for what is neither. int8 array `[N]`."""
    if not is_plain(column.type):
        return np.full(len(column), -1, dtype=np.int8)
    cells = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
    index = pc.fill_null(pc.index_in(cells, value_set=pa.array(list(ALL_BINARY_CELLS))), -1).to_numpy()
    return np.array([*ALL_BINARY_CELLS.values(), -1], dtype=np.int8)[index]


def cell_values(table: Table, name: str) -> np.ndarray:
    """What the cells of a label column say: 0, 1, a share between them and NaN for unknown where there may be such, -1
    for what is none of these. Float array `[N]`.
    """
    values = binary_codes(table.column(name)).astype(np.float32)
    if table.soft_labels and is_plain(table.column(name).type):
        shares = pd.to_numeric(table.strings(name).to_pandas(), errors="coerce").to_numpy(dtype=np.float32)
        values = np.where((values < 0) & (shares >= 0) & (shares <= 1), shares, values)
    if table.unknown_labels and is_plain(table.column(name).type):
        values[pc.is_in(pc.utf8_lower(table.strings(name)), value_set=pa.array(UNKNOWN_CELLS)).to_numpy()] = np.nan
    return values


def looks_binary(table: Table, name: str) -> bool:
    """Whether more than half of the cells that are neither empty nor unknown are 0 or 1, or shares where there may be
    such: a label column, perhaps with mistakes in it."""
    if not is_plain(table.column(name).type):
        return False
    values = cell_values(table, name)
    filled = pc.not_equal(table.strings(name), "").to_numpy() & ~np.isnan(values)
    if not filled.any() or (values[filled] >= 0).mean() <= 0.5:
        return False
    if table.soft_labels:
        return True
    cells = distinct_cells(table, name)
    return bool(cells & set(BINARY_CELLS)) or any(yes in cells and no in cells for yes, no in YES_AND_NO)


def is_binary(table: Table, name: str) -> bool:
    """Whether all non-empty cells are 0 or 1."""
    filled = pc.not_equal(table.strings(name), "").to_numpy()
    return looks_binary(table, name) and not (cell_values(table, name)[filled] < 0).any()


def distinct_cells(table: Table, name: str) -> set[str]:
    """The different non-empty cells of a column, in lower case."""
    return {str(cell).lower() for cell in pc.unique(table.strings(name)).to_pylist()} - {""}
