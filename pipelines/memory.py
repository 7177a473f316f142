"""The memory of the steps that hold the data: what they need by the data's size, and what a run asks for.

A pipeline in a cluster has one parameter of it, `memory`: request and limit of each of its steps that grow with the
data. `mlops submit` chooses it from the size of the data's file; the KFP UI and recurring runs have the default, where
nobody says more. (One for all of them: the largest has to fit on a node anyway, and the others run before and after
it.) Steps that hold no rows have what `pipelines.pods` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Any
from urllib.parse import urlsplit

from matchmaking.base.errors import InputError, MlopsError

MB, MIB = 10**6, 2**20
# rows, where no more memory is needed for more
UNLIMITED = 10**12


@dataclass(frozen=True)
class Need:
    """What a step's process takes at its peak.

    Attributes:
        fixed: MB, of its libraries, whatever the data.
        per_row: kB, of each row of the dataset.
        most: MB, however many rows there are.
    """

    fixed: float
    per_row: float
    most: float = inf

    def at(self, rows: float) -> float:
        """MB at so many rows."""
        return min(self.fixed + self.per_row * rows / 1000, self.most)

    def rows(self, megabytes: float) -> float:
        """How many rows there is room for."""
        return inf if megabytes >= self.most else (megabytes - self.fixed) / self.per_row * 1000


# by component; `make bench` measures it, and says where it is more. Lines through what 12,000 and 1.2 million take;
# at some 200,000, where a batch is full, `train`, `score` and `evaluate` take up to 100 MB more: within HEADROOM
NEEDS = {
    "validate": Need(fixed=330, per_row=0.12),
    # of the stratified split, which may ask for the rows in any order; of the others it is a third
    "split": Need(fixed=325, per_row=0.25),
    "train": Need(fixed=870, per_row=0.28),
    # of more than `trial.MOST_ROWS` it draws a part
    "trial": Need(fixed=870, per_row=0.28),
    "evaluate": Need(fixed=790, per_row=0.29),
    # by `benchmarks.parts`, at 500,000 and a million; of more than `score_counts.MOST` scores no more are held, and as
    # many take 1,173 MB to count without TensorFlow, and 1,752 to add
    "shard": Need(fixed=890, per_row=0.16, most=2_600),
    "merge": Need(fixed=325, per_row=0.08, most=2_600),
    # as `shard` and `merge` without a model and scores; see `benchmarks.parts`
    "draw": Need(fixed=330, per_row=0.12),
    "pool": Need(fixed=325, per_row=0.08, most=2_600),
    "compare": Need(fixed=215, per_row=0.24),
    # of all rows, which are drawn is held, and of those that are (100,000 at most) the rest: 840 and 450 MB at 12,000
    "score": Need(fixed=925, per_row=0.016),
    "drift": Need(fixed=470, per_row=0.08, most=560),
    "observe": Need(fixed=770, per_row=2.2),
    # a row is a line of the exposure log
    "experiment": Need(fixed=215, per_row=1.3),
}
STEPS = {
    "retrain": ("validate", "split", "train", "evaluate", "compare"),
    "sweep": ("validate", "split", "trial", "train", "evaluate", "compare"),
    "evaluate": ("validate", "split", "evaluate"),
    "evaluate-parts": ("shard", "merge"),
    "monitor": ("validate", "score", "drift"),
    "monitor-parts": ("draw", "pool", "score", "drift"),
    "observe": ("observe",),
    "experiment": ("experiment",),
}
# bytes of a row of generated pairs by the ending of the file; rows of more bytes take no more memory
ROW_BYTES = {".csv": 81.0, ".csv.gz": 24.0, ".parquet": 13.0}
# a Parquet file knows its rows: so many files of a dataset, the largest, are asked, by so many bytes of their ends
ASKED, FOOTER = 4, 1 << 18
# in DVC's remotes: a version of the data, which is one plain CSV file
_DVC_FILE = re.compile(r"(?:^|/)files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
# of a record of a generated prediction log, by the ending of its part
LOG_ROW_BYTES = {".parquet": 40.0, ".jsonl": 480.0, ".ndjson": 480.0, ".jsonl.gz": 50.0, ".ndjson.gz": 50.0}
# of a line of an exposure log; the gateway's parts, of a minute each, are compressed less well
EXPOSURE_BYTES = {".jsonl.gz": 30.0, ".jsonl": 400.0}
# by the parameter that names a log
LOG_BYTES = {"predictions": LOG_ROW_BYTES, "exposures": EXPOSURE_BYTES}
# KFP's launcher is in the same container
LAUNCHER_MB = 60
# on top: other data, other machines, and what the kernel counts with the process
HEADROOM = 1.25
UNIT_MIB = 128
DEFAULT = "2Gi"
# as KFP's SDK has them
_UNITS = {"": 1, **{f"{unit}i": 2 ** (10 * n) for n, unit in enumerate("KMGTPE", 1)}}
_UNITS |= {unit: 10 ** (3 * n) for n, unit in enumerate("KMGTPE", 1)}


def in_bytes(text: str, source: str = "--memory") -> int:
    """A Kubernetes quantity of memory.

    Raises:
        InputError: it isn't one.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGTPE]i?)?", text)
    if not found or float(found[1]) == 0:
        raise InputError(f"{source}: '{text}' is no amount of memory; give it as 6Gi or 6000Mi")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def of_rows(pipeline: str, rows: float) -> str:
    """What a pipeline's largest step needs for so many rows, with headroom, as a Kubernetes quantity."""
    peak = max(NEEDS[step].at(rows) for step in STEPS[pipeline])
    mib = ceil((peak + LAUNCHER_MB) * HEADROOM * MB / MIB / UNIT_MIB) * UNIT_MIB
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def rows_within(pipeline: str, memory: str) -> int:
    """How many rows a pipeline has room for in so much memory; the other way round."""
    megabytes = in_bytes(memory) / MB / HEADROOM - LAUNCHER_MB
    return int(max(0, min(UNLIMITED, *(NEEDS[step].rows(megabytes) for step in STEPS[pipeline]))))


def choose(pipeline: str, uris: Mapping[str, str]) -> tuple[str, str]:
    """The memory for a run on these files, and why, in a line.

    Args:
        pipeline: whose run.
        uris: of the datasets and the log, as the cluster sees them, by the pipeline's parameter. They are only asked
            for their size; where that isn't known from here (another network, no credentials), it is the default.
    """
    rows = 0.0
    for name, uri in uris.items():
        try:
            size = _rows_of_log(uri, LOG_BYTES[name]) if name in LOG_BYTES else _rows(uri)
        except MlopsError as error:
            room = rows_within(pipeline, DEFAULT)
            return DEFAULT, f"enough for {room:,} rows; how many there are isn't known here: {error}"
        rows = max(rows, size)
    return of_rows(pipeline, rows), f"for {rows:,.0f} rows, by the size of the data"


def check_fits(memory: str, largest_node: str, source: str = "--memory") -> None:
    """Makes sure that a node could hold such a step.

    Args:
        memory: what it asks for.
        largest_node: what the largest node has for pods; empty where that isn't known.
        source: where `memory` is from, for messages.

    Raises:
        InputError: no node could, or it isn't an amount of memory.
    """
    asked = in_bytes(memory, source)
    if largest_node and asked > in_bytes(largest_node, "MLOPS_NODE_MEMORY"):
        gib = in_bytes(largest_node) / 2**30
        raise InputError(
            f"{source}: no node could hold a step of {memory}, as the largest has {gib:.1f} GiB for pods; add a larger "
            "one, use less data, or give less with --memory and see whether it is enough"
        )


def killed(task: str, limit: str, arguments: Mapping[str, Any]) -> str:
    """What to say of a step that was killed, and what to set."""
    said = f"it was killed, most likely as it needed more memory than its limit of {limit}"
    if re.sub(r"-\d+$", "", task) not in NEEDS or "memory" not in arguments:
        return said
    more = f"{ceil(in_bytes(limit) * 2 / 2**30)}Gi"
    return f"{said}; with `--memory {more}` (`memory: {more}` in schedules.yaml, `memory` in the UI) it gets more"


def _rows(uri: str) -> float:
    """How many rows a dataset has: what Parquet files say themselves, and of others by their size."""
    from matchmaking.data.parts import dataset_files
    from matchmaking.storage import join

    folder, sizes = dataset_files(uri)
    kinds = {name: _ending(name, ROW_BYTES) or _looked_up(name) for name in sizes}
    parquet = sorted((name for name, kind in kinds.items() if kind in (".parquet", "")), key=lambda name: -sizes[name])
    told = {name: _rows_told(join(folder, name) if folder else name) for name in parquet[:ASKED]}
    known = {name: rows for name, rows in told.items() if rows is not None}
    row_bytes = dict(ROW_BYTES)
    if sum(known.values()):
        # the other parts are like those that were asked
        row_bytes[".parquet"] = sum(sizes[name] for name in known) / sum(known.values())
    return sum(known.get(name, size / _row_bytes(kinds[name], row_bytes)) for name, size in sizes.items())


def _rows_of_log(uri: str, row_bytes: Mapping[str, float]) -> float:
    """How many records a log has, by the size of its parts and by what a record takes."""
    from matchmaking.storage import list_sizes, size

    web = uri.lower().startswith(("http://", "https://"))
    sizes = ({} if web else list_sizes(uri, once=True)) or {uri: size(uri)}
    return sum(size / _row_bytes(_ending(name, row_bytes), row_bytes) for name, size in sizes.items())


def _row_bytes(kind: str, known: Mapping[str, float]) -> float:
    """Bytes of a row, by the kind of a file; where that isn't known, the fewest: too much room is enough."""
    return known[kind] if kind else min(known.values())


def _ending(name: str, known: Mapping[str, float]) -> str:
    """The ending of a file's name, or of a web address without its query; empty where it is none of these."""
    plain = urlsplit(name).path if name.lower().startswith(("http://", "https://")) else name
    return next((end for end in known if plain.lower().endswith(end)), "")


def _looked_up(uri: str) -> str:
    """The kind of a dataset's file whose name doesn't say it: by how it begins, where it is here; empty if unknown."""
    from matchmaking.storage import local_path

    if _DVC_FILE.search(urlsplit(uri).path):
        return ".csv"
    if "://" in uri and not uri.startswith("file://"):
        return ""
    try:
        with local_path(uri).open("rb") as file:
            start = file.read(4)
    except OSError:
        return ""
    return {b"PAR1": ".parquet", b"\x1f\x8b": ".csv.gz"}.get(start if start == b"PAR1" else start[:2], ".csv")


def _rows_told(uri: str) -> int | None:
    """How many rows a Parquet file has, as its end says; None where it is none, or its end is too long."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from matchmaking.storage import read_end

    try:
        return int(pq.read_metadata(io.BytesIO(read_end(uri, FOOTER))).num_rows)
    except (MlopsError, pa.ArrowException, OSError, ValueError):
        return None
