"""What a dataset holds and how good production is on it, from the counts of its shards: the same as in one piece.

The same in each digit: the errors and warnings about the data with their lines, its rows, matches, repetitions and
unseen categories, the split, everything that is a count, and as long as scores are told apart (`score_counts`) the ROC
AUC, the average precision and the curves of the same scores. Brier score, log loss and calibration error are sums over
rows in another order, and may differ from the 13th digit on. A score itself may differ in its last bit (1e-8) where a
row is among the last few of a batch that TensorFlow is given, as the batches are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from matchmaking.base.redact import redact
from matchmaking.data.describe import DataReport
from matchmaking.evidence.score_counts import MOST, ScoreCounts, curves_of, errors, evaluate_counts
from matchmaking.evidence.shard import LISTED, RULES, SCORES
from matchmaking.inputs.shard_rows import in_order, report_together
from matchmaking.inputs.split import Facts, facts_with, one_class, production_lineage
from matchmaking.model import production


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
    shards = in_order(folders)
    version, data = report_together(shards, production.read_encoders(production_dir).categories, source)
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
        "parts": {"parts": sum(len(record["parts"]) for record, _ in shards), "shards": len(shards), "errors": off},
    }
    return version, _report(data, production_dir), evaluation


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
