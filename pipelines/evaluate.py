"""evaluate (daily): how good production is on the held-out pairs."""

from kfp import dsl

from components.evaluate import evaluate as measure
from components.ingest import ingest
from components.report import report
from components.split import split as split_pairs
from components.validate import validate
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="evaluate", description="Measure production on the held-out pairs.")
def evaluate(
    data: str,
    production: str,
    seed: int = 0,
    split: str = "auto",
    production_data: str = "",
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Measures production on the held-out pairs.

    Args:
        data: URI of the dataset: CSV or Parquet, a file or parts.
        production: URI of the production folder.
        seed: recorded with the run; nothing here is drawn by chance.
        split: how the held-out pairs are chosen: "auto" (none that trained production), "hash" or "stratified".
        production_data: URI of the dataset that production was trained on, if its model doesn't know; empty for `data`.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    fetched = ingest(
        data=data,
        production=production,
        pipeline="evaluate",
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params={"seed": seed, "split": split},
        production_data=production_data,
    )
    run_id = fetched.outputs["run_id"]
    served = fetched.outputs["production_model"]
    valid = validate(run_id=run_id, raw=fetched.outputs["raw"], production_model=served, source=data)
    parts = split_pairs(
        run_id=run_id,
        pairs=valid.outputs["pairs"],
        production_model=served,
        how=split,
        dataset_version=fetched.outputs["dataset_version"],
    )
    measured = measure(run_id=run_id, test_pairs=parts.outputs["test"], production_model=served)
    report(
        run_id=run_id,
        production=production,
        production_sha256=fetched.outputs["production_sha256"],
        data_report=valid.outputs["data_report"],
        evaluation=measured.outputs["evaluation"],
    )
    equip(memory)
