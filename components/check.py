"""Checks everything about a promotion before production is touched."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Markdown, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def check(
    run_id: str,
    version: str,
    production: str,
    force: bool,
    reason: str,
    checked: Output[Artifact],
    page: Output[Markdown],
) -> NamedTuple("Outputs", [("package", str), ("production_sha256", dict)]):  # type: ignore[valid-type]
    """Checks sha256s, contract and decision of a candidate against what production holds now.

    Args:
        run_id: the MLflow run.
        version: of the model registry, or the package's name or URI; empty for the challenger.
        production: URI of the production folder.
        force: pass over what the evidence forbids.
        reason: why; needed with force.
        checked: text: what would change; carries the step's cost.
        page: the same for people.

    Returns:
        package: the package's URI.
        production_sha256: what production holds now, by file name.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("check", run_id, [checked]):
        from matchmaking.promotion import explain, prepare_promotion
        from matchmaking.tracking import log_params

        log_params(run_id, {"version": version, "reason": reason})
        change = prepare_promotion(version, production, force=force, reason=reason)
        text = "\n".join(explain(change))
        Path(checked.path).write_text(text)
        Path(page.path).write_text("\n".join(f"- {line}" for line in text.splitlines()))
        return (change.package_uri, change.before.sha256)
