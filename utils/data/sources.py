"""What a file is: by its first bytes, whatever its name says; packed tables are unpacked into the cache."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import datasets

from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.shown import join_names, quote

KINDS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx")
# First bytes of what is no table, and what to say of it.
SIGNATURES = {
    b"\xd0\xcf\x11\xe0": "is a workbook of an old Excel: save it as .xlsx or as .csv",
    b"%PDF": "is a PDF: save its table as .csv",
    b"BZh": "is packed by bzip2: unpack it",
    b"\xfd7zXZ": "is packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "is packed by zstd: unpack it",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"Rar!": "is a RAR archive: unpack it",
    b"\xff\xfe": "is UTF-16, as Excel's Unicode text is: save it as UTF-8",
    b"\xfe\xff": "is UTF-16: save it as UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the file that it stands for: fetch that by git lfs pull",
}
MARKUP = {
    b"<!doctype": "is an HTML page, perhaps one that asks for a login: download the file itself",
    b"<html": "is an HTML page, perhaps one that asks for a login: download the file itself",
    b"<head": "is an HTML page, perhaps one that asks for a login: download the file itself",
    b"<table": "is an HTML page, as some programs export for Excel: save it as .csv",
    b"<?xml": "is XML: save its table as .csv",
}


@dataclass
class Source:
    """A file to read.

    Args:
        name: what the user calls it.
        path: what is read: the file itself, or its unpacked copy.
        kind: its suffix, one of KINDS.
    """

    name: str
    path: Path
    kind: str


def open_source(path: str | Path) -> Source:
    """Find out what a file is; one that is packed by gzip, or alone in a zip archive, is unpacked into the cache.

    Raises:
        UserError: for a file that is missing, empty, no table, or something else than its name says.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _examined(Source(str(path), path, path.suffix.lower()))


def _examined(source: Source, unpacked: bool = False) -> Source:
    """The source, or what is packed in it; `unpacked`: whether it has been packed itself."""
    name, path = source.name, source.path
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
        if not head:
            raise UserError(f"{name} is empty: it needs a header line and rows")
        is_gzip = head.startswith(b"\x1f\x8b")
        members = _table_members(path) if head.startswith(b"PK\x03\x04") else None
        if unpacked and (is_gzip or members is not None):
            raise UserError(f"{name} is packed twice: unpack it")
        if is_gzip:
            return _unpacked_gzip(source)
        if members is not None:
            return _unpacked_zip(source, members)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    # zipfile's for a way of packing that it does not know, and for an archive with a password
    except (zlib.error, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{name} cannot be unpacked, perhaps it was copied in part: {error}") from error
    _refuse_others(source, head)
    return source


def not_utf8(name: str, path: str | Path) -> str:
    """What is wrong with a file that is not UTF-8: where, and what to do.

    Args:
        name: what the user calls it.
        path: of the file.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                at = len(line[: error.start].decode("utf-8"))
                around = line.decode("latin-1")[max(0, at - 20) : at + 20].strip()
                return (
                    f'{name}, line {number} is not UTF-8: read as Latin-1 it holds "{quote(around)}"; save the file as '
                    "UTF-8 (Excel calls it CSV UTF-8)"
                )
    return f"{name} is not UTF-8: save it as UTF-8"


def _refuse_others(source: Source, head: bytes) -> None:
    """Refuse what is no table, or another kind of table than its name says.

    Args:
        source: the file.
        head: its first bytes.

    Raises:
        UserError: with what it is, and what to do.
    """
    name, kind = source.name, source.kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    signs = [text for sign, text in SIGNATURES.items() if head.startswith(sign)]
    signs += [text for sign, text in MARKUP.items() if start.startswith(sign)]
    if signs:
        raise UserError(f"{name} {signs[0]}")
    if kind not in KINDS:
        raise UserError(
            f"{name}: unknown kind of file: give .csv, .tsv, .txt, .jsonl, .parquet or .xlsx (.gz and .zip of them too)"
        )
    is_excel = head.startswith(b"PK\x03\x04")
    if is_excel != (kind == ".xlsx"):
        what = "is an Excel workbook: give it the ending" if is_excel else "is no Excel workbook: it should not end in"
        raise UserError(f"{name} {what} .xlsx" + (", or save it as .csv" if is_excel else ""))
    if head.startswith(b"PAR1") and kind != ".parquet":
        raise UserError(f"{name} is a Parquet file: give it the ending .parquet")
    if kind in (".csv", ".tsv", ".txt") and start.replace(b" ", b"").startswith((b'{"', b'[{"')):
        raise UserError(f"{name} holds JSON: give it the ending .jsonl (an object in each line) or .json")


def _unpacked_gzip(source: Source) -> Source:
    """What is packed in a gzip file; `train.csv.gz` and a `train.csv` that is one hold a .csv."""
    inner = Path(source.path.name.removesuffix(".gz").removesuffix(".GZ")).suffix.lower()
    if inner not in KINDS:
        raise UserError(f"{source.name} is packed by gzip: say by its name what is in it, as in rows.csv.gz")
    target = _place(source.path, inner)
    if not target.exists():
        with gzip.open(source.path) as packed, atomic_path(target) as temporary, open(temporary, "wb") as file:
            shutil.copyfileobj(packed, file, 2**20)
    return _examined(Source(source.name, target, inner), unpacked=True)


def _table_members(path: Path) -> list[str] | None:
    """Names of the tables in a zip archive; None for an Excel workbook, which is one too."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if "xl/workbook.xml" in names or "[Content_Types].xml" in names:
        return None
    visible = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)]
    return [name for name in visible if Path(name).suffix.lower() in KINDS]


def _unpacked_zip(source: Source, members: list[str]) -> Source:
    """The only table in a zip archive."""
    if len(members) != 1:
        raise UserError(
            f"{source.name} is a zip archive with {join_names(members) or 'no table'}: unpack it, and name one file"
        )
    inner = Path(members[0]).suffix.lower()
    target = _place(source.path, inner)
    if not target.exists():
        with (
            zipfile.ZipFile(source.path) as archive,
            archive.open(members[0]) as packed,
            atomic_path(target) as temporary,
            open(temporary, "wb") as file,
        ):
            shutil.copyfileobj(packed, file, 2**20)
    return _examined(Source(f"{source.name}/{members[0]}", target, inner), unpacked=True)


def _place(path: Path, kind: str) -> Path:
    """Where in the cache a packed file is unpacked: under the hash of its content."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "unpacked" / f"{content_hash(path)}{kind}"


def content_hash(path: Path, *parts: bytes) -> str:
    """Hash of a file's content, and of more, as hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:32]
