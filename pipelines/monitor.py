"""monitor (weekly): has the world moved away from the data production was trained on?"""

from kfp import dsl

from components.drift import drift
from components.ingest import ingest
from components.report import report
from components.score import score
from components.validate import validate
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="monitor", description="Compare current data with the reference: data, target and score drift.")
def monitor(
    data: str,
    production: str,
    current: str = "",
    seed: int = 0,
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Compares current data with the reference.

    Args:
        data: URI of the reference dataset: CSV or Parquet, a file or parts.
        production: URI of the production folder, whose scores are compared too; empty for none.
        current: URI of the current dataset, whose `match` column may be absent; empty to compare a sample of the
            reference with the rest of it.
        seed: of that sample.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    reference = ingest(
        data=data,
        production=production,
        pipeline="monitor",
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params={"seed": seed},
    )
    run_id = reference.outputs["run_id"]
    served = reference.outputs["production_model"]
    fresh = ingest(run_id=run_id, data=current, instead=data, production="")
    fresh.set_display_name("Fetch the current dataset")
    valid = validate(run_id=run_id, raw=reference.outputs["raw"], production_model=served, source=data)
    valid_fresh = validate(
        run_id=run_id,
        raw=fresh.outputs["raw"],
        production_model=served,
        source=current,
        instead=data,
        labelled=False,
    )
    valid_fresh.set_display_name("Check the current dataset")
    scored = score(
        run_id=run_id,
        reference=valid.outputs["pairs"],
        current=valid_fresh.outputs["pairs"],
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
        production_sha256=reference.outputs["production_sha256"],
        data_report=valid_fresh.outputs["data_report"],
        drift=found.outputs["result"],
        drift_report=found.outputs["drift_report"],
    )
    equip(memory)
