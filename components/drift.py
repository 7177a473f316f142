"""Compares current data with the reference."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from matchmaking.settings import image


@dsl.component(base_image=image("monitor"), install_kfp_package=False)
def drift(
    run_id: str,
    reference: Input[Dataset],
    current: Input[Dataset],
    self_comparison: bool,
    seed: int,
    result: Output[Artifact],
    page: Output[HTML],
    metrics: Output[Metrics],
) -> bool:
    """Compares current data with the reference: data, target and score drift.

    Args:
        run_id: the MLflow run.
        reference: parquet, scored.
        current: parquet, scored.
        self_comparison: there is no current data; compare a sample of the reference with the rest of it.
        seed: of that sample.
        result: JSON.
        page: Evidently's report.
        metrics: the scalars, for the KFP UI.

    Returns:
        Whether there is drift.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("drift", run_id, [result], [reference, current]):
        from matchmaking.drift import drift_files

        found = drift_files(
            Path(reference.path),
            Path(current.path),
            self_comparison=self_comparison,
            seed=seed,
            result_path=Path(result.path),
            page_path=Path(page.path),
        )
        metrics.log_metric("share_drifted", found["share_drifted"])
        return found["drifted"]
