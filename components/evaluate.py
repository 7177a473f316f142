"""Measures production and, where there is one, the candidate on the same held-out pairs."""

from kfp import dsl
from kfp.dsl import Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def evaluate(
    run_id: str,
    test_pairs: Input[Dataset],
    production_model: Input[Model],
    scores: Output[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    production_roc: Output[ClassificationMetrics],
    candidate_roc: Output[ClassificationMetrics],
    candidate: Input[Model] = None,
):
    """Measures production and candidate on the same held-out pairs.

    Args:
        run_id: the MLflow run.
        test_pairs: parquet.
        production_model: the production bundle; may be empty.
        scores: parquet: label, each model's probability, slice columns.
        evaluation: JSON: every metric, by slice, and curves.
        metrics: the scalars, for the KFP UI.
        production_roc: production's ROC curve and confusion matrix, for the KFP UI.
        candidate_roc: the candidate's.
        candidate: the candidate's bundle.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    inputs = [test_pairs, production_model, candidate]
    outputs = {
        "Evaluation": evaluation,
        "Scores": scores,
        "Metrics": metrics,
        "ROC curve, production": production_roc,
        "ROC curve, candidate": candidate_roc,
    }
    with step("evaluate", run_id, outputs, inputs):
        from matchmaking.evidence.evaluate import evaluate_models, show_in_kfp

        result = evaluate_models(
            Path(test_pairs.path),
            Path(production_model.path),
            Path(candidate.path) if candidate else None,
            Path(scores.path),
            Path(evaluation.path),
        )
        show_in_kfp(result, metrics, {"production": production_roc, "candidate": candidate_roc})
