"""Some parts of a dataset, checked, counted and scored by themselves, so that `merge` can say what one piece would.

What leaves a shard is small beside its rows: what is wrong with them, counts of what they hold, how often production
gave each score, and of each row a hash of 8 bytes, by which repetitions are found across shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.data.batches import BATCH, rebatched
from matchmaking.data.schema import SLICES, TARGET
from matchmaking.evidence.score_counts import MOST, ScoreCounts
from matchmaking.inputs.shard_rows import HASHES, RECORD, ShardRows
from matchmaking.inputs.split import production_lineage
from matchmaking.model import production
from matchmaking.model.lineage import Flags, Keys, Lineage, by_hash, pair_keys
from matchmaking.model.score import score_batches

# in the folder that a shard writes, beside what all of them do
SCORES, LISTED = "scores.npz", "listed"
# which pairs production's lineage decides on; `auto` of a split that is told row by row
RULES = {"auto": "production's", "hash": "hash"}


def count_shard(
    plan: Mapping[str, Any],
    number: int,
    production_dir: Path,
    out: Path,
    *,
    uri: str,
    how: str,
    most: int = MOST,
) -> dict[str, Any]:
    """Reads the parts of a shard, one after the other, of which no more than one is here at a time.

    Args:
        plan: as `plan.plan_shards` gives it.
        number: which shard, from 0.
        production_dir: the production bundle, which knows which pairs trained it.
        out: a folder to write: what `merge.merge_shards` reads.
        uri: of the dataset; it is called so in messages.
        how: "auto" or "hash".
        most: scores that are told apart, at most.

    Returns:
        What is in its `RECORD`; what is wrong with the data is told there, and raised by `merge`, which knows what
        others have found before.

    Raises:
        InputError: a part isn't there any more, or isn't what it was.
        StorageError: the store can't be reached, even after retries.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts = ScoreCounts(most)
    with (out / HASHES).open("wb") as hashes:
        known = production.read_encoders(production_dir).categories
        rows = ShardRows(plan["folder"], plan["shards"][number], uri, known, hashes)
        shard = _Shard(rows, production_dir, how)
        for frame, scores in score_batches(rebatched(shard.held_out(), BATCH), production_dir):
            counts.add(frame[TARGET].to_numpy(), scores, frame[[*SLICES]])
    counts.save(out / SCORES)
    (out / LISTED).write_bytes(np.packbits(shard.listed).tobytes())
    record = {"number": number, "shards": len(plan["shards"]), "parts": rows.parts, "split": shard.split}
    (out / RECORD).write_text(json.dumps(record))
    return record


class _Shard:
    """What is found in the parts while they are read.

    Attributes:
        split: rows and matches of `train` and `test`, and rows `left_out`.
        listed: which of the pairs that production's lineage lists are there.
    """

    def __init__(self, rows: ShardRows, production_dir: Path, how: str) -> None:
        self.rows, self.how = rows, how
        trained, _ = production_lineage(production_dir)
        assert trained is not None, "the plan has looked for it"
        self.trained: Lineage = trained
        self.listed: Flags = np.zeros(len(trained.listed), bool)
        self.split: dict[str, Any] = {"train": [0, 0], "test": [0, 0], "left_out": 0}

    def held_out(self) -> Iterator[pd.DataFrame]:
        """The held-out pairs of all parts, until something is wrong with one."""
        for frame in self.rows.frames():
            yield self._look(frame)

    def _look(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The held-out pairs of some; all are counted."""
        keys, match = pair_keys(frame), frame[TARGET].to_numpy()
        clean = self.trained.held_out(keys)
        held_out = clean if self.how == "auto" else by_hash(keys)
        test = held_out & clean
        for name, rows in (("train", ~held_out), ("test", test)):
            self.split[name] = [self.split[name][0] + int(rows.sum()), self.split[name][1] + int(match[rows].sum())]
        self.split["left_out"] += int((held_out & ~clean).sum())
        self._note_listed(keys)
        return frame[test]

    def _note_listed(self, keys: Keys) -> None:
        listed = self.trained.listed
        if len(listed):
            place = np.minimum(np.searchsorted(listed, keys), len(listed) - 1)
            self.listed[place[listed[place] == keys]] = True
