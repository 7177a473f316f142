"""Puts a candidate into production; the only step that writes there."""

from kfp import dsl
from kfp.dsl import Artifact, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def promote(
    run_id: str,
    version: str,
    production: str,
    production_sha256: dict,
    audit_entry: Output[Artifact],
    force: bool = False,
    reason: str = "",
    win: str = "",
):
    """Backs up production, replaces its model file whole, reads it back, and records who did what and why.

    Args:
        run_id: the MLflow run, which it closes.
        version: of the model registry, or the package's name or URI.
        production: URI of the production folder.
        production_sha256: what production must hold still, by file name.
        audit_entry: JSON.
        force: pass over what the evidence forbids.
        reason: why; needed with force.
        win: an experiment that found the candidate better, in the place of a verdict `hold`; empty for none.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step, tell_summary

    with step("promote", run_id, {"Audit entry": audit_entry}):
        from matchmaking.release.promote import promote_in_run

        promote_in_run(
            version,
            production,
            run_id=run_id,
            expected_before=production_sha256,
            force=force,
            reason=reason,
            experiment=win,
            entry_path=Path(audit_entry.path),
        )
        tell_summary({"pipeline": "promote", "run_id": run_id, "entry": json.loads(Path(audit_entry.path).read_text())})
