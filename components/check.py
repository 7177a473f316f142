"""The first step of a promotion: opens the MLflow run, and checks everything before production is touched."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Markdown, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def check(
    job_id: str,
    timestamp: str,
    version: str,
    production: str,
    force: bool,
    reason: str,
    win: str,
    change: Output[Markdown],
) -> NamedTuple("Outputs", [("run_id", str), ("package", str), ("production_sha256", dict)]):  # type: ignore[valid-type]
    """Checks sha256s, contract and decision of a candidate against what production holds now.

    Args:
        job_id: identifies this execution, so that a retried step finds the MLflow run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        version: of the model registry, or the package's name or URI; empty for the challenger.
        production: URI of the production folder.
        force: pass over what the evidence forbids.
        reason: why; needed with force.
        win: an experiment that found the candidate better, in the place of a verdict `hold`; empty for none.
        change: what would change.

    Returns:
        run_id: the MLflow run.
        package: the package's URI.
        production_sha256: what production holds now, by file name.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("check", "", {"Change": change}) as this:
        from matchmaking.base.escape import for_markdown
        from matchmaking.release.check import explain, prepare_promotion
        from matchmaking.tracking import log_params

        run_id, _ = this.open_run("promote", timestamp, job_id, {"force": force})
        log_params(run_id, {"version": version, "reason": reason, "experiment": win})
        prepared = prepare_promotion(version, production, force=force, reason=reason, experiment=win)
        Path(change.path).write_text("\n".join(f"- {for_markdown(line)}" for line in explain(prepared)))
        return (run_id, prepared.package_uri, prepared.before.sha256)
