"""Some parts of one of two datasets that are compared, checked, counted and drawn from, so that `pool` can do the rest.

The pairs that drift is tested on are those that `validate` and `score` would check and draw in one piece, row for row,
as of each shard enough is kept for that (`drawn.Draw`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matchmaking.data.drawn import MAX_ROWS, Draw
from matchmaking.inputs.shard_rows import HASHES, RECORD, ShardRows
from matchmaking.model import production

# in the folder that a shard writes, beside what all of them do
DRAWN = "drawn.parquet"


def draw_shard(
    division: Mapping[str, Mapping[str, Any]],
    number: int,
    production_dir: Path,
    out: Path,
    *,
    uris: Mapping[str, str],
    seed: int,
    most: int = MAX_ROWS,
) -> dict[str, Any]:
    """Reads the parts of a shard, one after the other, of which no more than one is here at a time.

    Args:
        division: as `divide.divide_sides` gives it.
        number: which shard, from 0: those of the reference, and then those of the current dataset.
        production_dir: the production bundle, whose encoder says which categories are known; may be empty.
        out: a folder to write: what `pool.pool_shards` reads.
        uris: of both datasets; they are called so in messages.
        seed: of the drawing.
        most: pairs to draw of a dataset, at the most.

    Returns:
        What is in its `RECORD`; what is wrong with the data is told there, and raised by `pool.pool_shards`, which
        knows what others have found before.

    Raises:
        InputError: a part isn't there any more, or isn't what it was.
        StorageError: the store can't be reached, even after retries.
    """
    side = "reference" if number < len(division["reference"]["shards"]) else "current"
    plan = division[side]
    place = number - (side == "current") * len(division["reference"]["shards"])
    out.mkdir(parents=True, exist_ok=True)
    draw = Draw(seed, most)
    with (out / HASHES).open("wb") as hashes:
        labelled = side == "reference"
        rows = ShardRows(
            plan["folder"],
            plan["shards"][place],
            uris[side],
            known_categories(production_dir),
            hashes,
            labelled=labelled,
        )
        before = sum(map(len, plan["shards"][:place]))
        passed: dict[int, int] = {}
        for frame in rows.frames():
            part = before + len(rows.parts) - 1
            first = passed.get(part, 0)
            passed[part] = first + len(frame)
            draw.add(frame, part, np.arange(first, passed[part]))
    if draw.rows:
        draw.save(out / DRAWN)
    record = {"side": side, "number": place, "shards": len(plan["shards"]), "parts": rows.parts}
    (out / RECORD).write_text(json.dumps(record))
    return record


def known_categories(production_dir: Path) -> dict[str, list[str]] | None:
    """The categories that production's encoder knows, by column; None where there is no production model."""
    return production.read_encoders(production_dir).categories if production.present(production_dir) else None
