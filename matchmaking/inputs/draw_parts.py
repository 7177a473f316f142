"""Two datasets in parts, checked, counted and drawn from shard by shard: the pairs that drift is tested on.

They are those that `validate` and `score` would check and draw in one piece, row for row, as of each shard enough is
kept for that (`drawn.Draw`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matchmaking.base.files import written_whole
from matchmaking.base.redact import redact
from matchmaking.data.drawn import MAX_ROWS, Draw
from matchmaking.inputs.shard_rows import HASHES, RECORD, ShardRows, in_order, report_together
from matchmaking.model import production

# in the folder that a shard writes, beside what all of them do
DRAWN = "drawn.parquet"
SIDES = ("reference", "current")


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
        division: as `plan.plan_sides` gives it.
        number: which shard, from 0: those of the reference, and then those of the current dataset.
        production_dir: the production bundle, whose encoder says which categories are known; may be empty.
        out: a folder to write: what `merge_drawn` reads.
        uris: of both datasets; they are called so in messages.
        seed: of the drawing.
        most: pairs to draw of a dataset, at the most.

    Returns:
        What is in its `RECORD`; what is wrong with the data is told there, and raised by `merge_drawn`, which knows
        what others have found before.

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
            plan["folder"], plan["shards"][place], uris[side], _known(production_dir), hashes, labelled=labelled
        )
        for frame, hashed in rows.frames():
            draw.add(frame, hashed)
    if draw.rows:
        draw.save(out / DRAWN)
    record = {"side": side, "number": place, "shards": len(plan["shards"]), "parts": rows.parts}
    (out / RECORD).write_text(json.dumps(record))
    return record


def merge_drawn(
    folders: Sequence[Path],
    production_dir: Path,
    targets: Mapping[str, Path],
    *,
    uris: Mapping[str, str],
    seed: int,
    most: int = MAX_ROWS,
) -> tuple[str, dict[str, Any]]:
    """Draws the pairs to compare from what the shards have kept.

    Args:
        folders: of all shards, as `draw_shard` wrote them, in any order.
        production_dir: the production bundle; may be empty.
        targets: the parquet files to write, by side: what `drawn.draw_files` would give.
        uris: of both datasets; they are called so in messages.
        seed: of the drawing.
        most: as the shards were told.

    Returns:
        The reference's version, and of the current dataset what `validate.validate_file` gives.

    Raises:
        InputError: something is wrong with the data: what it would be in one piece.
        MlopsError: a shard is missing.
    """
    import pyarrow.parquet as pq

    known = _known(production_dir)
    found = {}
    by_side = {side: [folder for folder in folders if _side(folder) == side] for side in SIDES}
    shards = {side: in_order(of_side) for side, of_side in by_side.items()}
    for side in SIDES:
        source, labelled = redact(uris[side]), side == "reference"
        found[side] = report_together(shards[side], known, source, labelled=labelled)
    for side, target in targets.items():
        draw = Draw(seed, most)
        for _, folder in shards[side]:
            if (folder / DRAWN).exists():
                draw.merge(Draw.load(folder / DRAWN, seed, most))
        with written_whole(target) as temporary:
            pq.write_table(draw.table(), temporary)
    report = found["current"][1].as_dict()
    notes = production.version_notes(production_dir) if known else []
    return found["reference"][0], {**report, "warnings": [*report["warnings"], *notes]}


def _known(production_dir: Path) -> dict[str, list[str]] | None:
    return production.read_encoders(production_dir).categories if production.present(production_dir) else None


def _side(folder: Path) -> str:
    return str(json.loads((folder / RECORD).read_text())["side"])
