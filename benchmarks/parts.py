"""What `evaluate-parts` and `monitor-parts` take a row, and with that a billion rows in 1,000 parts, on paper.

Measured, each in a process of its own: a shard of one and of two parts of generated pairs, for the rate and the memory;
a shard and a merge of as many different scores as are told apart at the most; and how long hashes take to be compared.
On paper is what follows for the billion: nothing of that size is run. All is read from this machine's disk. On a
machine that does other things as well, the processor time tells more than the wall time; the paper has the former.

    python -m benchmarks.parts [--rows 1000000] [--scores 10000000] [--hashes 50000000]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from matchmaking.data.sample import generate, generate_file
from matchmaking.data.schema import SLICES
from matchmaking.evidence.merge import merge_shards
from matchmaking.evidence.score_counts import MOST, ScoreCounts
from matchmaking.evidence.shard import count_shard
from matchmaking.inputs.divide import SHARDS_OF_TWO
from matchmaking.inputs.draw import draw_shard
from matchmaking.inputs.plan import SHARDS, divide, plan_shards
from matchmaking.inputs.shard_rows import HASHES, different
from pipelines.compile import compile_pipeline
from tests import workflow_size
from tests.pipelines.test_shape import COSTS

ROWS, PARTS, NODES = 10**9, 1_000, 20
# assumed: bytes a second between a pod and the store, and seconds of each step on the way for its pods to come and go
NETWORK, STEP_SECONDS = 100e6, 30
STEPS = {
    "evaluate-parts": ("plan", "shard", "merge", "report"),
    "monitor-parts": ("divide", "draw", "pool", "score", "drift", "report"),
}
MEBIBYTE = 2**20


def main() -> None:
    """Prints what was measured, and the paper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each of the two parts that are measured")
    parser.add_argument("--ending", action="append", choices=("csv", "parquet"), help="both, if left out")
    parser.add_argument("--scores", type=int, default=MOST, help="different scores of the shards that are merged")
    parser.add_argument("--hashes", type=int, default=50_000_000, help="that are compared")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        served = base / "production"
        _alone(_train, base, served)
        rates = {ending: _shards(base, served, ending, asked.rows) for ending in asked.ending or ("csv", "parquet")}
        merged = _merged(base, asked.scores)
        hashed = _alone(_compare, _hashes(base, asked.hashes))
    print(
        f"hashes: {asked.hashes:,} of {SHARDS} shards compared in {hashed['processor']:.1f} s, {hashed['peak']:.0f} MB"
    )
    comparing = hashed["processor"] / asked.hashes * ROWS
    _paper("evaluate-parts", SHARDS, rates, merged["size"], SHARDS * merged["seconds"] + comparing)
    kept = max(each["monitor-parts"]["beside"] for each in rates.values())
    _paper("monitor-parts", SHARDS_OF_TWO, rates, kept, comparing)


def _alone(what: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Calls something in a process of its own: what it gives, with seconds as `wall` and `processor`, and `peak` MB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, what, *arguments).result()


def _measured(what: Callable[..., dict[str, float] | None], *arguments: Any) -> dict[str, float]:
    begin, before = time.monotonic(), _processor()
    found = what(*arguments) or {}
    took = {"wall": time.monotonic() - begin, "processor": _processor() - before}
    # of this process alone: what `getrusage` says begins with that of the one that started it
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {**took, "peak": float(status["VmHWM"].split()[0]) * 1024 / 1e6, **found}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _train(base: Path, served: Path) -> None:
    """A production model that knows what trained it."""
    from matchmaking.inputs.split import split_file
    from matchmaking.model import production
    from matchmaking.model.recipe import Recipe
    from matchmaking.model.train import train_candidate

    none, pairs, train, test, lineage = (base / name for name in ("none", "pairs", "train", "test", "lineage"))
    none.mkdir()
    generate(3_000, seed=1_000).to_parquet(pairs, index=False)
    split_file(pairs, none, train, test, lineage, "auto", "")
    logging.disable()
    with contextlib.redirect_stdout(io.StringIO()):
        train_candidate(train, none, base / "bundle", Recipe("dense", seed=0), lineage_path=lineage)
    served.mkdir()
    for name in production.FILES:
        shutil.copyfile(base / "bundle" / name, served / name)


def _shards(base: Path, served: Path, ending: str, rows: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes a row of a shard, beside what any takes however few its rows are; by pipeline."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STEPS}
    for parts in (1, 2):
        data = base / f"{ending}-{parts}"
        data.mkdir()
        for number in range(parts):
            if ending == "csv":
                generate_file(data / f"{number}.csv", rows, seed=number)
            else:
                generate(rows, seed=number).to_parquet(data / f"{number}.parquet", index=False)
        size = sum(path.stat().st_size for path in data.iterdir())
        print(f"{ending}: {parts * rows:,} rows in {parts} parts, {size / 1e6:.1f} MB")
        for name, what, arguments in (
            ("evaluate-parts", count_one, (plan_shards(str(data), 1), served)),
            ("monitor-parts", draw_one, (plan_shards(str(data), 1), served)),
        ):
            out = base / f"{ending}-{name}-{parts}"
            one = _alone(what, *arguments, out, str(data))
            written = {path.name: path.stat().st_size for path in out.iterdir()}
            one |= {"beside": sum(written.values()) - written[HASHES]}
            found[name].append(one)
            print(
                f"  {name}: a shard {one['wall']:.1f} s, {one['processor']:.1f} s of a processor, "
                f"{one['peak']:.0f} MB at the most; writes {sum(written.values()) / 1e6:.1f} MB "
                f"({written[HASHES] / 1e6:.1f} of hashes)",
                flush=True,
            )
        adding = _alone(merge_one, [base / f"{ending}-evaluate-parts-{parts}"], served, str(data))
        print(f"  evaluate-parts: merged alone in {adding['processor']:.1f} s, {adding['peak']:.0f} MB", flush=True)
    rates = {}
    for name, (first, second) in found.items():
        per_row = (second["processor"] - first["processor"]) / rows
        fixed = max(0.0, first["processor"] - per_row * rows)
        print(f"{ending}, {name}: {1 / per_row:,.0f} rows a second of a processor, after {fixed:.1f} s", flush=True)
        rates[name] = {"per_row": per_row, "fixed": fixed, "bytes": size / (2 * rows), "beside": second["beside"]}
    return rates


def count_one(plan: dict[str, Any], served: Path, out: Path, uri: str) -> None:
    count_shard(plan, 0, served, out, uri=uri, how="auto")


def draw_one(plan: dict[str, Any], served: Path, out: Path, uri: str) -> None:
    draw_shard({"reference": plan, "current": plan}, 0, served, out, uris={"reference": uri, "current": uri}, seed=0)


def merge_one(folders: list[Path], served: Path, source: str) -> None:
    merge_shards(folders, served, source=source, how="auto")


def _merged(base: Path, scores: int) -> dict[str, float]:
    """What scores take, where as many are told apart as can be: to count them, as a file, and to add two such."""
    paths = [base / "scores-0", base / "scores-1"]
    counting = [_alone(_count, path, scores, seed) for seed, path in enumerate(paths)]
    adding = _alone(_add, paths)
    size = paths[0].stat().st_size
    print(
        f"scores: {counting[0]['keys']:,.0f} counted at {counting[0]['peak']:.0f} MB, a file of {size / 1e6:.1f} MB; "
        f"two such added in {adding['processor']:.1f} s at {adding['peak']:.0f} MB, "
        f"{adding['dropped']:.0f} bits of a score dropped",
        flush=True,
    )
    return {"size": size, "seconds": adding["processor"] / 2, "peak": max(adding["peak"], counting[0]["peak"])}


def _count(path: Path, scores: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    counts = ScoreCounts()
    slices = generate(100_000, seed)[[*SLICES]]
    # each row counts once by itself and once in each slice
    for _ in range(max(1, round(1.1 * scores / (1 + len(SLICES)) / len(slices)))):
        match = (rng.random(len(slices)) < 0.12).astype(np.int64)
        logits = rng.normal(4 * match - 5, 2)
        counts.add(match, (1 / (1 + np.exp(-logits))).astype(np.float32).astype(float), slices)
    counts.save(path)
    return {"keys": float(len(counts._keys))}


def _add(paths: list[Path]) -> dict[str, float]:
    counts = ScoreCounts()
    for path in paths:
        counts.merge(ScoreCounts.load(path))
    return {"dropped": float(counts.dropped)}


def _hashes(base: Path, hashes: int) -> list[tuple[Path, list[int]]]:
    """Files of hashes, as many shards hand them on: each a run that ascends."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(SHARDS):
        run = np.sort(rng.integers(0, 2**64 - 1, hashes // SHARDS, dtype=np.uint64))
        path = base / f"hashes-{number}"
        run.tofile(path)
        files.append((path, [len(run)]))
    return files


def _compare(files: list[tuple[Path, list[int]]]) -> None:
    different(files)


def _paper(
    name: str,
    shards: int,
    rates: dict[str, dict[str, dict[str, float]]],
    beside: float,
    seconds: float,
) -> None:
    """Prints what a pipeline takes for `ROWS`.

    Args:
        name: the pipeline's.
        shards: it has, at most.
        rates: of each format what `_shards` gives.
        beside: bytes that a shard hands on, beside its hashes.
        seconds: of a processor that adding up takes.
    """
    most = max(map(len, divide([1] * PARTS, shards)))
    steps = len(STEPS[name])
    pods = 2 + 2 * (steps - 1) + 3 * shards
    metadata = {"display_name": "Production model, scored", "rows": 12_000.0, "store_session_info": "{}"}
    size = workflow_size.workflow_bytes(compile_pipeline(name), metadata, COSTS)
    handed = 8 * ROWS + shards * beside
    print(f"on paper, {name}: {ROWS:,} rows in {PARTS:,} parts on {NODES} nodes")
    print(f"  shards: {shards} of at most {most} parts; {NODES - shards} nodes have none")
    print(f"  pods: {pods}; Workflow: at most {size / 1e3:.0f} kB; etcd refuses {1.5 * MEBIBYTE / 1e3:.0f}")
    print(f"  handed on: {handed / 1e9:.1f} GB; added up in {seconds:.0f} s, and {handed / NETWORK:.0f} s to fetch it")
    for ending, by_name in rates.items():
        rate = by_name[name]
        rows = most * ROWS / PARTS
        fetching = rows * rate["bytes"] / NETWORK
        counting = rate["fixed"] + rows * rate["per_row"]
        giving = handed / shards / NETWORK
        total = steps * STEP_SECONDS + fetching + counting + giving + handed / NETWORK + seconds
        work = shards * rate["fixed"] + ROWS * rate["per_row"] + seconds
        print(
            f"  {ending}: {ROWS * rate['bytes'] / 1e9:.0f} GB fetched; a shard {counting / 60:.0f} min of a processor, "
            f"{fetching / 60:.1f} min of network: what one that is lost takes again; the run {total / 60:.0f} min, "
            f"{work / 3600:.1f} hours of a processor",
        )


if __name__ == "__main__":
    main()
