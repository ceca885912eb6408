"""Tables in Excel workbooks, every cell as a text."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from utils.core.errors import UserError
from utils.core.shown import join_names, quote
from utils.data.headers import Header, Layout, check_names, find_header
from utils.data.sources import Source

SAMPLE_ROWS = 1000
ROUNDED = 10**15  # Excel keeps 15 digits of a number


class Workbook:
    """A sheet of an Excel workbook; its columns are found out at once.

    Args:
        source: the file.
        layout: what the user says of it.

    Raises:
        UserError: where openpyxl is missing, and for a file that is no workbook, or has no such sheet, or an empty one.
    """

    def __init__(self, source: Source, layout: Layout):
        self.source, self.sheet = source, layout.sheet
        self.sheets: list[str] = []
        sample = [cells for _, cells in islice(self._rows(), SAMPLE_ROWS)]
        if not sample:
            which = "first sheet" if self.sheet is None else f'sheet "{quote(self.sheet)}"'
            raise UserError(f"{source.name} has no rows in its {which}: add rows, or name another by --excel_sheet")
        self.header: Header = find_header(source.name, sample, layout)
        check_names(source.name, self.header.names)

    def chunks(self, rows_per_chunk: int) -> Iterator[pa.Table]:
        """The rows in parts, every cell a text; the last part may be shorter.

        Raises:
            UserError: for a row with more cells than there are columns, or a cell that does not hold what was entered.
        """
        names = self.header.names
        rows = islice(self._rows(), 1 if self.header.in_file else 0, None)
        while part := list(islice(rows, rows_per_chunk)):
            for number, cells in part:
                if len(cells) > len(names):
                    raise UserError(
                        f"{self.source.name}, row {number} has {len(cells)} cells, and there are {len(names)} columns: "
                        "make the numbers equal"
                    )
            columns = [[cells[i] if i < len(cells) else "" for _, cells in part] for i in range(len(names))]
            yield pa.table(columns, schema=pa.schema({name: pa.string() for name in names}))

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Number and cells of each row that is not empty, without empty cells at its end."""
        try:
            import openpyxl
        except ImportError as error:
            raise UserError(
                f"{self.source.name}: Excel workbooks are read by openpyxl, which is not installed: "
                "pip install -r requirements-excel.txt, or save the sheet as .csv"
            ) from error
        try:
            book = openpyxl.load_workbook(self.source.path, read_only=True, data_only=True)
            self.sheets = [sheet.title for sheet in book.worksheets]
            if self.sheet is not None and self.sheet not in self.sheets:
                raise UserError(
                    f'{self.source.name} has no sheet "{quote(self.sheet)}" (--excel_sheet); it has: '
                    f"{join_names(self.sheets)}"
                )
            sheet: Any = book[self.sheet or self.sheets[0]]
            for number, row in enumerate(sheet.iter_rows(), start=1):
                cells = [self._text(cell) for cell in row]
                while cells and not cells[-1]:
                    cells.pop()
                if cells:
                    yield number, cells
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, IndexError, AttributeError) as error:
            raise UserError(f"{self.source.name} cannot be read as a workbook: {error}: save it as .csv") from error

    @property
    def remarks(self) -> list[str]:
        """What to say of how the file is read."""
        if len(self.sheets) == 1 or self.sheet is not None:
            return []
        others = join_names(self.sheets[1:])
        return [
            f'{self.source.name}: the first of its sheets is read, "{quote(self.sheets[0])}" '
            f"(--excel_sheet names another: {others})"
        ]

    def _text(self, cell: Any) -> str:
        """A cell as a text: whole numbers without a point, dates as in ISO 8601."""
        value = cell.value
        if value is None:
            return ""
        where = f"{self.source.name}, row {getattr(cell, 'row', '?')}, column {getattr(cell, 'column_letter', '?')}"
        if cell.data_type == "e":
            raise UserError(f"{where} holds Excel's error {value}: enter the cell again, as text")
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float) and abs(value) >= ROUNDED:
            raise UserError(f"{where} holds a number of more than 15 digits, which Excel has rounded: keep it as text")
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, datetime.datetime | datetime.date | datetime.time):
            return value.isoformat()
        return str(value)
