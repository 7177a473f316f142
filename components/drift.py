"""Compares current data with the reference."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("monitor"), install_kfp_package=False)
def drift(
    run_id: str,
    reference: Input[Dataset],
    current: Input[Dataset],
    seed: int,
    result: Output[Artifact],
    drift_report: Output[HTML],
    metrics: Output[Metrics],
) -> bool:
    """Compares current data with the reference: data, target and score drift.

    Args:
        run_id: the MLflow run.
        reference: parquet, scored; `score` notes in it whether a sample of it is compared with the rest.
        current: parquet, scored.
        seed: of that sample.
        result: JSON.
        drift_report: Evidently's report.
        metrics: the scalars, for the KFP UI.

    Returns:
        Whether there is drift.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    outputs = {"Drift": result, "Drift report": drift_report, "Drifted share": metrics}
    with step("drift", run_id, outputs, [reference, current]):
        from matchmaking.data.drawn import with_itself
        from matchmaking.data.drift import drift_files

        found = drift_files(
            Path(reference.path),
            Path(current.path),
            self_comparison=with_itself(Path(reference.path)),
            seed=seed,
            result_path=Path(result.path),
            page_path=Path(drift_report.path),
        )
        metrics.log_metric("share_drifted", found["share_drifted"])
        return found["drifted"]
