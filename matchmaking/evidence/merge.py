"""What a dataset holds and how good production is on it, from the counts of its shards: the same as in one piece.

The same in each digit: the errors and warnings about the data with their lines, its rows, matches, repetitions and
unseen categories, the split, everything that is a count, and as long as scores are told apart (`score_counts`) the ROC
AUC, the average precision and the curves of the same scores. Brier score, log loss and calibration error are sums over
rows in another order, and may differ from the 13th digit on. A score itself may differ in its last bit (1e-8) where a
row is among the last few of a batch that TensorFlow is given, as the batches are others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.redact import redact
from matchmaking.data.describe import DataReport, Tally, check_known
from matchmaking.data.hashes import distinct
from matchmaking.data.parts import version_together
from matchmaking.data.problems import tell_together
from matchmaking.data.read import no_row
from matchmaking.data.schema import COLUMNS
from matchmaking.evidence.score_counts import MOST, ScoreCounts, curves_of, errors, evaluate_counts
from matchmaking.evidence.shard import HASHES, LISTED, RECORD, RULES, SCORES
from matchmaking.inputs.split import Facts, facts_with, one_class, production_lineage
from matchmaking.model import production

# hashes looked at together, 8 bytes each
HASHES_AT_ONCE = 1 << 24


def merge_shards(
    folders: Sequence[Path], production_dir: Path, *, source: str, how: str, most: int = MOST
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Adds up what the shards of a dataset have found.

    Args:
        folders: of all shards, as `shard.count_shard` wrote them, in any order.
        production_dir: the production bundle.
        source: what to call the dataset.
        how: as the shards were told.
        most: scores that are told apart, at most.

    Returns:
        The dataset's version; what `validate.validate_file` gives; and what `evaluate.evaluate_models` gives, with
        `parts`: how many `parts` and `shards` there were, and how far `roc_auc` and `average_precision` may be off as
        scores were counted together (0 where they weren't).

    Raises:
        InputError: something is wrong with the data: what it would be in one piece.
        MlopsError: a shard is missing.
    """
    source = redact(source)
    read = ((json.loads((folder / RECORD).read_text()), folder) for folder in folders)
    shards = sorted(read, key=lambda each: each[0]["number"])
    if [record["number"] for record, _ in shards] != [*range(shards[0][0]["shards"] if shards else 1)]:
        raise MlopsError("not all shards of the dataset are there: what is missing can't be told")
    parts = [part for record, _ in shards for part in record["parts"]]
    _tell(parts, source)

    tally = Tally(production.read_encoders(production_dir).categories)
    for part in parts:
        tally.add_counts(part["counts"])
    tally.check_enough(source)
    extra = [column for part in parts for column in part["extra"]]
    repeated = tally.rows - different([(folder / HASHES, _lengths(record)) for record, folder in shards])
    data = tally.report(extra if len(parts) == 1 else [*dict.fromkeys(extra)], repeated)
    check_known(data, tally.known, source)

    version = version_together([part["md5"] for part in parts])
    facts = _facts(shards, production_dir, how, version)
    counts = ScoreCounts(most)
    for _, folder in shards:
        counts.merge(ScoreCounts.load(folder / SCORES, most))
    off = errors(counts)
    if counts.dropped:
        facts = _told(facts, off, counts.dropped)
    evaluation = {
        "curves": {"production": curves_of(counts)},
        "split": {**asdict(facts), "notes": [*facts.notes]},
        "production": evaluate_counts(counts),
        "candidate": None,
        "contract": None,
        "parts": {"parts": len(parts), "shards": len(shards), "errors": off},
    }
    return version, _report(data, production_dir), evaluation


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


def _tell(parts: Sequence[dict[str, Any]], source: str) -> None:
    """Raises what is wrong with the data: in one piece all files are opened, and then read one after the other."""
    for kind in ("refused", "broken"):
        for part in parts:
            if kind in part:
                raise InputError(part[kind])
    if not sum(part["rows"] for part in parts):
        raise no_row(source, parts=bool(parts[0]["part"]))
    tell_together(source, parts, ["(none)", *COLUMNS])


def _lengths(record: dict[str, Any]) -> list[int]:
    return [part["hashes"] for part in record["parts"]]


def _facts(shards: Sequence[tuple[dict[str, Any], Path]], production_dir: Path, how: str, version: str) -> Facts:
    trained, assumed = production_lineage(production_dir)
    assert trained is not None, "the plan has looked for it"
    same = assumed and trained.dataset_version == version
    splits = [record["split"] for record, _ in shards]
    left_out = sum(each["left_out"] for each in splits)
    rows = {}
    for name in ("train", "test"):
        rows[name], matches = (sum(each[name][place] for each in splits) for place in (0, 1))
        if not 0 < matches < rows[name]:
            raise one_class(name, how, left_out)
    listed = np.zeros(len(trained.listed), bool)
    for _, folder in shards:
        bits = np.frombuffer((folder / LISTED).read_bytes(), np.uint8)
        listed |= np.unpackbits(bits, count=len(listed)).astype(bool)
    counts = (rows["train"], rows["test"], left_out)
    return facts_with(how, RULES[how], counts, trained, assumed=assumed, same=same, found=int(listed.sum()))


def _told(facts: Facts, off: dict[str, float], dropped: int) -> Facts:
    """The facts, with a word on scores that were counted together."""
    note = (
        f"scores that differ by less than one in {2 ** (23 - dropped):,} were counted together: the ROC AUC is "
        f"within {off['roc_auc']:.1e} of that of the scores themselves, the average precision within "
        f"{off['average_precision']:.1e}"
    )
    return Facts(**{**vars(facts), "notes": (*facts.notes, note)})


def _report(data: DataReport, production_dir: Path) -> dict[str, Any]:
    return {**data.as_dict(), "warnings": [*data.warnings, *production.version_notes(production_dir)]}
