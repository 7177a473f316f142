"""The last step of every pipeline: writes the reports and closes the MLflow run, unless a promotion follows."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Model, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def report(
    run_id: str,
    pipeline: str,
    timestamp: str,
    seed: int,
    production: str,
    production_sha256: dict,
    dataset_version: str,
    data_report: Input[Artifact],
    results: Output[Artifact],
    report: Output[HTML],
    summary: Output[Markdown],
    candidate_uri: str = "",
    then: str = "",
    evaluation: Input[Artifact] = None,
    decision: Input[Artifact] = None,
    candidate: Input[Model] = None,
    packaged: Input[Artifact] = None,
    drift: Input[Artifact] = None,
    drift_report: Input[HTML] = None,
):
    """Writes the reports and the summary, and closes the MLflow run.

    Args:
        run_id: the MLflow run.
        pipeline: the pipeline's name.
        timestamp: the run's.
        seed: the run's.
        production: URI of the production folder, hashed again to show that it didn't change.
        production_sha256: its hashes before.
        dataset_version: md5 of the dataset.
        data_report: JSON.
        results: a folder: summary.json, report.html, report.txt, plots.
        report: the HTML report.
        summary: the result in a few lines.
        candidate_uri: the package; empty for none.
        then: "automatic" where the promotion follows, which closes the run instead.
        evaluation: JSON.
        decision: JSON.
        candidate: the bundle with its training record.
        packaged: carries what the packaging cost.
        drift: JSON.
        drift_report: Evidently's report.
    """
    from pathlib import Path

    from matchmaking.steps import collect, step, tell_summary

    inputs = [data_report, candidate, evaluation, decision, packaged, drift]
    outputs = {"Results": results, "Report": report, "Summary": summary}
    with step("report", run_id, outputs, inputs):
        from matchmaking.summary import write_reports

        def path(artifact):
            return Path(artifact.path) if artifact else None

        written = write_reports(
            Path(results.path),
            run_id=run_id,
            pipeline=pipeline,
            timestamp=timestamp,
            seed=seed,
            production_uri=production,
            production_before=production_sha256,
            dataset_version=dataset_version,
            candidate_uri=candidate_uri,
            steps=collect(inputs),
            data_report=path(data_report),
            evaluation=path(evaluation),
            decision=path(decision),
            candidate=path(candidate),
            drift=path(drift),
            drift_page=path(drift_report),
            page=Path(report.path),
            short=Path(summary.path),
            last=then != "automatic",
        )
        tell_summary(written)
