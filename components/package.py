"""Publishes and registers a candidate that improves."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def package(
    run_id: str,
    timestamp: str,
    candidate: Input[Model],
    evaluation: Input[Artifact],
    decision: Input[Artifact],
    candidates: str,
    dataset_version: str,
    packaged: Output[Artifact],
) -> str:
    """Publishes a candidate that improves and registers it in MLflow; one that doesn't is only recorded.

    Args:
        run_id: the MLflow run.
        timestamp: the run's; the package is called v<timestamp>.
        candidate: the bundle.
        evaluation: JSON.
        decision: JSON.
        candidates: URI of the folder packages go to.
        dataset_version: md5 of the dataset.
        packaged: text: where it went.

    Returns:
        The package's URI; empty where there is none.
    """
    import json
    import tempfile
    from pathlib import Path

    from matchmaking.steps import step

    with step("package", run_id, {"Package": packaged}, [candidate, evaluation, decision]):
        from matchmaking.package import fetch_package, package_candidate

        uri = package_candidate(
            Path(candidate.path),
            json.loads(Path(evaluation.path).read_text()),
            json.loads(Path(decision.path).read_text()),
            candidates_uri=candidates,
            timestamp=timestamp,
            dataset_version=dataset_version,
        )
        if uri:
            from matchmaking.registry import register

            # what is registered is what was published, read back
            with tempfile.TemporaryDirectory() as folder:
                register(fetch_package(uri, Path(folder)), run_id)
        Path(packaged.path).write_text(uri)
        return uri
