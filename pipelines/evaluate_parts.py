"""evaluate-parts (on demand): how good production is on a dataset that many pods read, some parts each."""

from kfp import dsl

from components.merge import merge
from components.plan import plan
from components.report import report
from components.shard import shard
from matchmaking.inputs.plan import SHARDS
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="evaluate-parts", description="Measure production on a dataset in parts, read side by side.")
def evaluate_parts(
    data: str,
    production: str,
    seed: int = 0,
    split: str = "auto",
    production_data: str = "",
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Measures production on the held-out pairs of a dataset in parts, which are read side by side.

    Args:
        data: URI of the dataset: CSV or Parquet, parts.
        production: URI of the production folder.
        seed: recorded with the run; nothing here is drawn by chance.
        split: how the held-out pairs are chosen: "auto" (none that trained production) or "hash".
        production_data: URI of the dataset that production was trained on, if its model doesn't know.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    planned = plan(
        data=data,
        production=production,
        pipeline="evaluate-parts",
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params={"seed": seed, "split": split},
        split=split,
        production_data=production_data,
    )
    run_id = planned.outputs["run_id"]
    served = planned.outputs["production_model"]
    with dsl.ParallelFor(planned.outputs["Output"], parallelism=SHARDS, name="shards") as number:
        counted = shard(
            run_id=run_id,
            data=data,
            division=planned.outputs["division"],
            production_model=served,
            split=split,
            number=number,
        )
    merged = merge(
        run_id=run_id,
        data=data,
        production_model=served,
        split=split,
        counted=dsl.Collected(counted.outputs["counted"]),
    )
    report(
        run_id=run_id,
        production=production,
        production_sha256=planned.outputs["production_sha256"],
        data_report=merged.outputs["data_report"],
        evaluation=merged.outputs["evaluation"],
    )
    equip(memory)
