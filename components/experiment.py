"""Reads an experiment's logs: what it says, and its page."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def experiment(run_id: str, logs: Input[Dataset], result: Output[Artifact]) -> str:
    """Reads an experiment's logs as of its last full day.

    Args:
        run_id: the MLflow run.
        logs: a folder: the logs, the definition, and what was asked.
        result: a folder: experiment.json and experiment.html.

    Returns:
        The verdict; empty where no experiment is under way.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("experiment", run_id, {"Experiment": result}, [logs]):
        from matchmaking.reporting.experiment import experiment_files

        return experiment_files(Path(logs.path), Path(result.path))
