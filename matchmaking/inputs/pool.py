"""Two datasets that are compared, by what their shards have found: what they hold, and the pairs to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matchmaking.base.files import written_whole
from matchmaking.base.redact import redact
from matchmaking.data.drawn import MAX_ROWS, Draw
from matchmaking.inputs.draw import DRAWN, known_categories
from matchmaking.inputs.shard_rows import RECORD, in_order, report_together
from matchmaking.model import production

SIDES = ("reference", "current")


def pool_shards(
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
        folders: of all shards, as `draw.draw_shard` wrote them, in any order.
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

    known = known_categories(production_dir)
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


def _side(folder: Path) -> str:
    return str(json.loads((folder / RECORD).read_text())["side"])
