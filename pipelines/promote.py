"""promote (by a person, or by a policy): put a packaged candidate into production, on its evidence."""

from kfp import dsl

from components.check import check
from components.promote import promote as promote_package
from pipelines.pods import equip


@dsl.pipeline(name="promote", description="Put a packaged candidate into production, on its evidence.")
def promote(  # type: ignore[no-untyped-def]
    production: str,
    version: str = "",
    force: bool = False,
    reason: str = "",
    win: str = "",
    timestamp: str = "",
):
    """Checks a packaged candidate and puts it into production.

    Args:
        production: URI of the production folder.
        version: in the registry, or a package's name or URI; empty: the challenger.
        force: pass over what the evidence forbids.
        reason: why; needed with force.
        win: an experiment it has won, in place of `hold`.
        timestamp: UTC; empty for now.
    """
    checked = check(
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        version=version,
        production=production,
        force=force,
        reason=reason,
        win=win,
    )
    promote_package(
        run_id=checked.outputs["run_id"],
        version=checked.outputs["package"],
        production=production,
        production_sha256=checked.outputs["production_sha256"],
        force=force,
        reason=reason,
        win=win,
    )
    equip()
