"""monitor-parts (on demand): has the world moved away, told by two datasets that many pods read, some parts each?"""

from kfp import dsl

from components.divide import divide
from components.draw import draw
from components.drift import drift
from components.pool import pool
from components.report import report
from components.score import score
from matchmaking.inputs.divide import SHARDS_OF_TWO
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="monitor-parts", description="Compare datasets in parts, read side by side: drift.")
def monitor_parts(
    data: str,
    current: str,
    production: str = "",
    seed: int = 0,
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Compares current data in parts with a reference in parts, which are read side by side.

    Args:
        data: URI of the reference dataset: CSV or Parquet, parts.
        current: URI of the current dataset, whose `match` column may be absent.
        production: URI of the production folder, whose scores are compared too; empty for none.
        seed: of the pairs that are drawn.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    divided = divide(
        data=data,
        current=current,
        production=production,
        pipeline="monitor-parts",
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params={"seed": seed},
    )
    run_id = divided.outputs["run_id"]
    served = divided.outputs["production_model"]
    with dsl.ParallelFor(divided.outputs["Output"], parallelism=SHARDS_OF_TWO, name="shards") as number:
        counted = draw(
            run_id=run_id,
            data=data,
            current=current,
            division=divided.outputs["division"],
            production_model=served,
            seed=seed,
            number=number,
        )
    pooled = pool(
        run_id=run_id,
        data=data,
        current=current,
        production_model=served,
        seed=seed,
        counted=dsl.Collected(counted.outputs["counted"]),
    )
    # of the pairs that are drawn already
    scored = score(
        run_id=run_id,
        reference=pooled.outputs["pairs"],
        current=pooled.outputs["current_pairs"],
        production_model=served,
        uri=current,
        seed=seed,
    )
    found = drift(
        run_id=run_id,
        reference=scored.outputs["scored_reference"],
        current=scored.outputs["scored_current"],
        seed=seed,
    )
    report(
        run_id=run_id,
        production=production,
        production_sha256=divided.outputs["production_sha256"],
        data_report=pooled.outputs["data_report"],
        drift=found.outputs["result"],
        drift_report=found.outputs["drift_report"],
    )
    equip(memory)
