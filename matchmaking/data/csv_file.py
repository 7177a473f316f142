"""A file that should be a CSV table of pairs, before its rows are read: its bytes, its header, its lines."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, cast

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_terminal
from matchmaking.data.schema import FEATURES, NUMERIC

Compression = Literal["gzip"] | None

# lines at the start of a file that are looked at for a header that isn't where it should be
TITLE_LINES = 20
NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity))$"


@dataclass(frozen=True)
class CsvFile:
    path: Path
    name: str
    compression: Compression

    def text(self, errors: str = "strict") -> TextIO:
        opened = gzip.open if self.compression else open
        return cast(TextIO, opened(self.path, "rt", encoding="utf-8", errors=errors, newline=""))


def look_at(path: Path, name: str) -> tuple[Compression, bool, int]:
    """Refuses what is not a text table at all, before a parser makes a worse message of it.

    Returns:
        The compression, whether there is white space before the header, and how many blank lines that is.
    """
    if not path.exists():
        raise InputError(f"{name} doesn't exist; give the path of a CSV or Parquet file")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InputError(f"{name} is empty; a header and rows are needed")
    if start[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                start = file.read(512)
        except (EOFError, OSError, zlib.error) as error:
            raise broken_gzip(name, error) from error
        compression: Compression = "gzip"
    else:
        compression = None
    if not start.strip():
        raise InputError(f"{name} is empty; a header and rows are needed")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{name} is an HTML or XML page, not a CSV file; was an error page saved in its place?")
    if b"\x00" in start:
        raise InputError(f"{name} is a binary file or not UTF-8 text; give a CSV file in UTF-8, or a Parquet file")
    before = start.removeprefix(b"\xef\xbb\xbf")
    lead = before[: len(before) - len(before.lstrip())]
    return compression, bool(lead), lead.replace(b"\r\n", b"\n").count(b"\n")


def broken_gzip(name: str, error: Exception) -> InputError:
    return InputError(f"{name}: the gzip file is truncated or damaged ({error}); download it again")


def check_text(file: CsvFile) -> bool:
    """Refuses bytes that a parser would stop at or pass over without a word; says whether there is a quote.

    Raises:
        InputError: not UTF-8, a NUL byte, or a byte order mark that isn't at the start.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    opened = gzip.open if file.compression else open
    quoted, first = False, True
    try:
        with opened(file.path, "rb") as raw:
            while block := raw.read(1 << 20):
                text = decoder.decode(block)
                if "\0" in text:
                    line = _line_with(file, lambda line: "\0" in line)
                    raise InputError(
                        f"{file.name}: line {line} has a NUL byte in it; remove it, or export the file anew"
                    )
                if "\ufeff" in (text.removeprefix("\ufeff") if first else text):
                    line = _line_with(file, lambda line: "\ufeff" in line)
                    raise InputError(
                        f"{file.name}: line {line} has a byte order mark within, as where files are joined; remove it"
                    )
                quoted, first = quoted or '"' in text, False
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = _line_with(file, lambda line: any("\udc80" <= char <= "\udcff" for char in line))
        raise InputError(f"{file.name} is not UTF-8 text (line {line}: {error.reason}); save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise broken_gzip(file.name, error) from error
    return quoted


def _line_with(file: CsvFile, test: Callable[[str], bool]) -> int:
    with file.text("surrogateescape") as text:
        return next(
            number for number, line in enumerate(text, 1) if test(line.removeprefix("\ufeff") if number == 1 else line)
        )


def check_records(file: CsvFile, least: int = 0) -> None:
    """Refuses rows whose quotes are wrong, and those with fewer fields than `least`."""
    with file.text() as text:
        reader = csv.reader(text, strict=True, skipinitialspace=True)
        before = 0
        try:
            for record in reader:
                if record and len(record) < least:
                    raise InputError(f"{file.name}: line {before + 1} has {len(record)} fields, the header {least}")
                before = reader.line_num
        except csv.Error as error:
            raise InputError(f"{file.name}: the row of line {before + 1} has a quote out of place ({error})") from error


def no_header(file: CsvFile, names: list[str], wanted: tuple[str, ...]) -> InputError | None:
    """What stands where the header should be; None where it is a header that lacks a column."""
    if sum(column in names for column in wanted) > len(wanted) / 2:
        return None
    for mark, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if sum(column in _split(",".join(names), mark) for column in wanted) > len(wanted) / 2:
            return InputError(f"{file.name}: its fields are separated by {called}; save it with commas")
    before = 0
    first = 0
    with file.text() as text:
        reader = csv.reader(text, skipinitialspace=True)
        try:
            for record in reader:
                first = first or before + 1
                if sum(column in map(str.strip, record) for column in wanted) > len(wanted) / 2:
                    return InputError(
                        f"{file.name}: line {first} ('{for_terminal(', '.join(names))[:60]}') is not the header, line "
                        f"{before + 1} is; remove what stands before it"
                    )
                before = reader.line_num
                if before > TITLE_LINES:
                    break
        except csv.Error:
            pass
    if len(names) >= len(FEATURES) and sum(bool(re.match(NUMBER, value)) for value in names) >= len(NUMERIC) / 2:
        return InputError(
            f"{file.name} has no header: line {first} is a row already ('{for_terminal(','.join(names))[:60]}...'); "
            f"put a line with the names of the columns before it: {','.join(wanted)}"
        )
    return None


def _split(text: str, mark: str) -> list[str]:
    return [part.strip(' "') for part in text.split(mark)]


def lines_of(file: CsvFile, rows: list[int]) -> list[int]:
    """The lines of the file on which data rows begin; a row may have blank lines before it, or in it."""
    lines, row, before = [], -1, 0
    with file.text() as text:
        reader = csv.reader(text)
        for record in reader:
            if record:
                # row -1 is the header
                if row in rows:
                    lines.append(before + 1)
                if row == rows[-1]:
                    break
                row += 1
            before = reader.line_num
    return lines
