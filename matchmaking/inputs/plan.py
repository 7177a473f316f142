"""Which parts of a dataset are read by whom, where many read them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.data.parts import list_dataset
from matchmaking.inputs.split import production_lineage
from matchmaking.model import production

# at most: each is three pods and some 55 kB of a Workflow, which stays below 1 MiB, from where on Argo compresses it
SHARDS = 14


def plan_shards(uri: str, most: int = SHARDS) -> dict[str, Any]:
    """Divides a dataset's parts into shards, none of which is read.

    Args:
        uri: the dataset.
        most: shards, at most.

    Returns:
        `folder` that the parts are in, and `shards`: of each the names and the bytes of its parts, some that follow
        each other in the order in which a dataset is read, about as many bytes as the others'. Of a dataset that is one
        file, the folder is empty, and there is one shard of it.

    Raises:
        InputError: there is no such dataset.
        StorageError: the store can't be reached, even after retries.
    """
    return planned(*list_dataset(uri), most)


def planned(folder: str, sizes: dict[str, int], most: int) -> dict[str, Any]:
    """What `plan_shards` gives, of parts with so many bytes, or of one file."""
    if not sizes:
        return {"folder": "", "shards": [[["", None]]]}
    names = [*sizes]
    return {
        "folder": folder,
        "shards": [[[names[part], sizes[names[part]]] for part in parts] for parts in divide([*sizes.values()], most)],
    }


def divide(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Divides numbers from 0 into at most so many runs, none empty, of about the same size together."""
    if len(sizes) <= most:
        return [[number] for number in range(len(sizes))]
    total = sum(sizes)
    runs: dict[int, list[int]] = {}
    before = 0
    for number, size in enumerate(sizes):
        # by the middle of it
        place = (2 * before + size) * most // (2 * total) if total else 0
        runs.setdefault(min(place, most - 1), []).append(number)
        before += size
    return [*runs.values()]


def check_by_rows(how: str, production_dir: Path, source: str) -> None:
    """Refuses a split that can't be told of a row without the others.

    Raises:
        InputError: there is no production model, or it depends on the whole dataset which pairs trained it, or are held
            out.
    """
    if not production.present(production_dir):
        raise InputError(f"{redact(source)} holds no production model: there is nothing to evaluate")
    if how not in ("auto", "hash"):
        raise InputError(f"--split {how}: which pairs it holds out depends on all of them; choose auto or hash")
    trained, _ = production_lineage(production_dir)
    if trained is None:
        raise InputError(
            "production's model doesn't say which pairs trained it, and that can't be told from parts: give the "
            "dataset that it was trained on (--production-data), or run evaluate, which reads all in one piece"
        )
