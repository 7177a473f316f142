"""The rows of some parts of a dataset, checked and counted; and what is known of all parts from each one's counts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from matchmaking import storage
from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import visible
from matchmaking.base.files import file_md5
from matchmaking.base.redact import redact
from matchmaking.data.describe import DataReport, Tally, check_known
from matchmaking.data.hashes import ascending, distinct
from matchmaking.data.part_rows import PartRows
from matchmaking.data.parts import version_together
from matchmaking.data.problems import tell_together
from matchmaking.data.read import check_same_target, no_row
from matchmaking.data.schema import COLUMNS, TARGET

# in the folder that a shard writes
RECORD, HASHES = "shard.json", "hashes"
# hashes looked at together, 8 bytes each
HASHES_AT_ONCE = 1 << 24


class ShardRows:
    """The rows of a shard's parts, one part after the other, of which no more than one is here at a time.

    Args:
        folder: where the parts are; empty for a dataset that is one file.
        names: of the parts, with their bytes.
        uri: of the dataset; it is called so in messages.
        known: the encoder's categories by column; None for no encoder.
        hashes: what the hashes of the rows are written to: of each part those of its different rows, from the least on.
        labelled: whether the `match` column must be there.

    Attributes:
        parts: of each what was found: `part` (its name), `md5`, `rows`, `counts` (see `Tally.counts`), `target`
            (whether it has `match`), `extra` (columns that aren't ours), `problems` (see `problems.as_json`), `hashes`
            (how many it has in the file), and where it can't be read `refused` (its file as such) or `broken` (on the
            way).
    """

    def __init__(
        self,
        folder: str,
        names: Sequence[tuple[str, int | None]],
        uri: str,
        known: dict[str, list[str]] | None,
        hashes: BinaryIO,
        *,
        labelled: bool = True,
    ) -> None:
        self.folder, self.names, self.uri, self.known = folder, names, uri, known
        self.hashes, self.labelled = hashes, labelled
        self.parts: list[dict[str, Any]] = []
        self._right = True

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows, some at a time, until one is wrong; the others are looked at still.

        Raises:
            InputError: a part isn't there any more, or isn't what it was.
            StorageError: the store can't be reached, even after retries.
        """
        with tempfile.TemporaryDirectory() as scratch:
            for part, size in self.names:
                place = Path(scratch) / "part"
                storage.download(storage.join(self.folder, part) if part else self.uri, place)
                if size not in (None, place.stat().st_size):
                    raise InputError(
                        f"{redact(self.uri)}: {visible(part)} has changed while the run went on; run it again"
                    )
                yield from self._part(place, part)
                place.unlink()

    def _part(self, path: Path, part: str) -> Iterator[pd.DataFrame]:
        tally = Tally(self.known)
        said: dict[str, Any] = {"part": part, "md5": file_md5(path), "rows": 0, "hashes": 0, "extra": []}
        said |= {"counts": tally.counts(), "problems": {"unread": [], "wrong": []}, "target": self.labelled}
        self.parts.append(said)
        try:
            rows = PartRows(path, part, redact(self.uri), labelled=self.labelled)
        except InputError as error:
            said["refused"] = str(error)
            self._right = False
            return
        said |= {"extra": rows.extra, "target": TARGET in rows.kept}
        # of other columns than those before, which `report_together` tells
        readable = [each["target"] for each in self.parts if "refused" not in each]
        self._right = self._right and said["target"] == readable[0]
        if any("broken" in each for each in self.parts):
            # in one piece, nobody would have come here
            return
        try:
            for frame in rows.frames():
                tally.add(frame)
                if self._right:
                    yield frame
        except InputError as error:
            said["broken"] = str(error)
        self._right = self._right and rows.right and "broken" not in said
        said |= {"rows": rows.rows, "counts": tally.counts(), "problems": rows.problems()}
        different = ascending(np.concatenate(tally.hashes)) if tally.hashes else np.empty(0, np.uint64)
        said["hashes"] = len(different)
        self.hashes.write(different.tobytes())


def in_order(folders: Sequence[Path]) -> list[tuple[dict[str, Any], Path]]:
    """What is in the `RECORD` of all shards of a dataset, each `number` of so many `shards`, and their folders.

    Raises:
        MlopsError: a shard is missing.
    """
    read = ((json.loads((folder / RECORD).read_text()), folder) for folder in folders)
    shards = sorted(read, key=lambda each: each[0]["number"])
    if [record["number"] for record, _ in shards] != [*range(shards[0][0]["shards"] if shards else 1)]:
        raise MlopsError("not all shards of the dataset are there: what is missing can't be told")
    return shards


def report_together(
    shards: Sequence[tuple[dict[str, Any], Path]],
    known: dict[str, list[str]] | None,
    source: str,
    *,
    labelled: bool = True,
) -> tuple[str, DataReport]:
    """What the shards of a dataset hold together.

    Args:
        shards: as `in_order` gives them.
        known: the encoder's categories by column; None for no encoder.
        source: what to call the dataset.
        labelled: whether it must have the `match` column, with enough of both classes to split.

    Returns:
        The dataset's version, and what `validate.validate_file` would report.

    Raises:
        InputError: something is wrong with the data: what it would be in one piece.
    """
    parts = [part for record, _ in shards for part in record["parts"]]
    _tell(parts, source)
    tally = Tally(known)
    for part in parts:
        tally.add_counts(part["counts"])
    if labelled:
        tally.check_enough(source)
    extra = [column for part in parts for column in part["extra"]]
    repeated = tally.rows - different([(folder / HASHES, _lengths(record)) for record, folder in shards])
    data = tally.report(extra if len(parts) == 1 else [*dict.fromkeys(extra)], repeated)
    if labelled:
        check_known(data, known, source)
    return version_together([part["md5"] for part in parts]), data


def different(files: Sequence[tuple[Path, Sequence[int]]]) -> int:
    """How many different hashes there are in files, each of runs of so many that ascend; of which few are held at once.

    Args:
        files: each of uint64, and how long its runs are.
    """
    runs = []
    for path, lengths in files:
        if sum(lengths):
            # what isn't looked at stays on the disk
            whole = np.memmap(path, np.uint64, "r")
            runs += np.split(whole, np.cumsum(lengths)[:-1])
    total = sum(map(len, runs))
    pieces = total // HASHES_AT_ONCE + 1
    found = 0
    first = [0] * len(runs)
    for piece in range(pieces):
        # hashes are as likely anywhere
        end = np.uint64((piece + 1) * 2**64 // pieces - 1)
        last = [int(np.searchsorted(run, end, side="right")) for run in runs]
        held = [run[a:b] for run, a, b in zip(runs, first, last, strict=True)]
        found += distinct(np.concatenate(held)) if held else 0
        first = last
    return found


def _tell(parts: Sequence[Mapping[str, Any]], source: str) -> None:
    """Raises what is wrong with the data: in one piece all files are opened, and then read one after the other."""
    for part in parts:
        if "refused" in part:
            raise InputError(part["refused"])
    for part in parts[1:]:
        check_same_target(source, *((visible(each["part"]), each["target"]) for each in (parts[0], part)))
    for part in parts:
        if "broken" in part:
            raise InputError(part["broken"])
    if not sum(part["rows"] for part in parts):
        raise no_row(source, parts=bool(parts[0]["part"]))
    tell_together(source, parts, ["(none)", *(column for column in COLUMNS if parts[0]["target"] or column != TARGET)])


def _lengths(record: Mapping[str, Any]) -> list[int]:
    return [part["hashes"] for part in record["parts"]]
