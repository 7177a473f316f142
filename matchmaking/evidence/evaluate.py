"""Measuring production and, where there is one, a candidate on the same held-out pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matchmaking.data import batches
from matchmaking.data.schema import SLICES, TARGET
from matchmaking.evidence import MODELS, contract, metrics
from matchmaking.inputs.split import facts_of
from matchmaking.model import lineage, production
from matchmaking.model.score import score


def evaluate_models(
    test_path: Path, production_dir: Path, candidate_dir: Path | None, scores_path: Path, evaluation_path: Path
) -> dict[str, Any]:
    """Scores the same held-out pairs with each model there is.

    Args:
        test_path: parquet file of held-out pairs.
        production_dir: the production bundle; may be empty.
        candidate_dir: the candidate's bundle; None for none.
        scores_path: parquet file to write: `match`, a probability column a model, the slice columns, and `group`, the
            same (uint64) for pairs with the same features.
        evaluation_path: JSON file to write, with what is returned.

    Returns:
        `production` and `candidate` (metrics as `metrics.evaluate` gives them, or None), `curves` by model, `split`
        (the fields of `split.Facts`; None for pairs that no split wrote), and `contract` (what
        `contract.check_contract` gives; None without a candidate).
    """
    pairs = batches.whole(test_path)
    folders = {
        "production": production_dir if production.present(production_dir) else None,
        "candidate": candidate_dir,
    }
    # pairs with the same features have the same score from any model: repetitions are one piece of evidence
    scores = pairs[[TARGET, *SLICES]].assign(group=lineage.pair_keys(pairs))
    evaluation: dict[str, Any] = {"curves": {}, "split": facts_of(pairs)}
    match = pairs[TARGET].to_numpy()
    for name in MODELS:
        folder = folders[name]
        if folder is None:
            evaluation[name] = None
            continue
        scores[name] = score(pairs, folder)
        evaluation[name] = metrics.evaluate(match, scores[name].to_numpy(), pairs[list(SLICES)])
        evaluation["curves"][name] = metrics.curves(match, scores[name].to_numpy())
    evaluation["contract"] = None
    if candidate_dir is not None:
        # here, where TensorFlow is imported already
        served, probabilities = folders["production"], scores["candidate"].to_numpy()
        evaluation["contract"] = contract.check_contract(candidate_dir, served, pairs, probabilities)
    with batches.writing(scores_path) as out:
        out.write(scores)
    evaluation_path.write_text(json.dumps(evaluation, indent=1))
    return evaluation


def show_in_kfp(evaluation: dict[str, Any], scalars: Any, curves: dict[str, Any]) -> None:
    """Fills KFP's metrics artifacts: the scalars of both models, and each model's ROC curve and confusion matrix.

    Args:
        evaluation: what `evaluate_models` gave.
        scalars: a KFP `Metrics` artifact.
        curves: a KFP `ClassificationMetrics` artifact by model.
    """
    for name in MODELS:
        found = evaluation[name]
        if found is None:
            continue
        for metric in metrics.SCALARS:
            if found[metric] is not None:
                scalars.log_metric(f"{name}_{metric}", found[metric])
        points = evaluation["curves"][name]["roc"]
        # KFP wants a threshold beside each point, which a thinned curve doesn't keep; it only orders them
        order = [1 - index / len(points) for index in range(len(points))]
        curves[name].log_roc_curve([x for x, _ in points], [y for _, y in points], order)
        cells = found["confusion"]
        curves[name].log_confusion_matrix(
            ["no match", "match"], [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]]
        )
