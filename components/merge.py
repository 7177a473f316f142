"""Adds up what the shards of a dataset have found."""

from typing import List  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, ClassificationMetrics, Input, Metrics, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def merge(
    run_id: str,
    data: str,
    production_model: Input[Model],
    split: str,
    counted: Input[List[Artifact]],  # noqa: UP006
    evaluation: Output[Artifact],
    data_report: Output[Artifact],
    metrics: Output[Metrics],
    production_roc: Output[ClassificationMetrics],
):
    """Says what the dataset holds and how good production is on it, from what its shards have found.

    Args:
        run_id: the MLflow run.
        data: URI of the dataset, as messages call it.
        production_model: the production bundle.
        split: how held-out pairs were chosen.
        counted: a folder of each shard.
        evaluation: JSON: every metric, by slice, and curves.
        data_report: JSON: rows, extra columns, categories never seen before.
        metrics: the scalars, for the KFP UI.
        production_roc: production's ROC curve and confusion matrix, for the KFP UI.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import as_text, step, summed

    # the shards' costs as those of one step
    before = Artifact(metadata={"steps": as_text(summed(counted))})
    outputs = {
        "Evaluation": evaluation,
        "Data report": data_report,
        "Metrics": metrics,
        "ROC curve, production": production_roc,
    }
    with step("merge", run_id, outputs, [before]) as this:
        from matchmaking.evidence.evaluate import show_in_kfp
        from matchmaking.evidence.merge import merge_shards

        folders, served = [Path(each.path) for each in counted], Path(production_model.path)
        version, report, result = merge_shards(folders, served, source=data, how=split)
        this.tell_dataset(version)
        if assumed := result["split"]["assumed"]:
            from matchmaking.base.files import file_sha256
            from matchmaking.model.production import MODEL
            from matchmaking.tracking import assume_training_data

            assume_training_data(run_id, file_sha256(served / MODEL), assumed, told_so=True)
        Path(data_report.path).write_text(json.dumps(report, indent=1))
        Path(evaluation.path).write_text(json.dumps(result, indent=1))
        show_in_kfp(result, metrics, {"production": production_roc})
