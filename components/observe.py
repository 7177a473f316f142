"""Measures production on the pairs of the logs, window by window, and estimates where outcomes haven't come."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def observe(
    run_id: str,
    logs: Input[Dataset],
    production_model: Input[Model],
    seed: int,
    live: Output[Artifact],
):
    """Measures production on the pairs of the logs, and estimates where outcomes haven't come.

    Args:
        run_id: the MLflow run.
        logs: a folder: the logs, and what was asked.
        production_model: the production bundle; may be empty.
        seed: of everything that is drawn by chance.
        live: a folder: live.json and windows.parquet.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("observe", run_id, {"Windows": live}, [logs, production_model]):
        from matchmaking.live.observe import observe_files

        observe_files(Path(logs.path), Path(production_model.path), Path(live.path), run_id=run_id, seed=seed)
