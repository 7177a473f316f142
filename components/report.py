"""The last step of every pipeline: writes the reports and closes the MLflow run, unless a promotion follows."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def report(
    run_id: str,
    production: str,
    production_sha256: dict,
    results: Output[Artifact],
    report: Output[HTML],
    summary: Output[Markdown],
    candidates: str = "",
    data_report: Input[Artifact] = None,
    evaluation: Input[Artifact] = None,
    decision: Input[Artifact] = None,
    candidate: Input[Model] = None,
    drift: Input[Artifact] = None,
    drift_report: Input[HTML] = None,
    live: Input[Artifact] = None,
    experiment: Input[Artifact] = None,
) -> str:
    """Packages and registers a candidate that isn't rejected, writes reports and summary, and closes the MLflow run.

    Args:
        run_id: the MLflow run, which knows what it is called after, its seed and its dataset.
        production: URI of the production folder, hashed again to show that it didn't change.
        production_sha256: its hashes before.
        results: a folder: summary.json, report.html, report.txt, plots.
        report: the HTML report.
        summary: the result in a few lines.
        candidates: URI of the folder packages go to, where there is a candidate.
        data_report: JSON, where a dataset was checked.
        evaluation: JSON.
        decision: JSON; of a candidate that the policy has promoted, the promotion closes the run instead.
        candidate: the bundle with its training record.
        drift: JSON.
        drift_report: Evidently's report.
        live: a folder: the windows of `observe`.
        experiment: a folder: what an experiment says, and its page.

    Returns:
        The package's URI; empty where there is none.
    """
    from pathlib import Path

    from matchmaking.tracking.step import collect, step, tell_summary

    inputs = [data_report, candidate, evaluation, decision, drift, live, experiment]
    outputs = {"Results": results, "Report": report, "Summary": summary}
    with step("report", run_id, outputs, inputs):
        from matchmaking.release.registry import publish_candidate
        from matchmaking.reporting.report import write_reports
        from matchmaking.tracking import begun

        def path(artifact):
            return Path(artifact.path) if artifact else None

        run = begun(run_id)
        uri = ""
        if candidate:
            uri = publish_candidate(
                path(candidate),
                path(evaluation),
                path(decision),
                run_id=run_id,
                candidates_uri=candidates,
                timestamp=run.timestamp,
                dataset_version=run.dataset_version,
            )
            # beside the outputs, for the summary of a local run that fails from here on
            Path(results.path).with_name("packaged").write_text(uri)
        written = write_reports(
            Path(results.path),
            run_id=run_id,
            pipeline=run.pipeline,
            timestamp=run.timestamp,
            seed=run.seed,
            production_uri=production,
            production_before=production_sha256,
            dataset_version=run.dataset_version,
            candidate_uri=uri,
            steps=collect(inputs),
            data_report=path(data_report),
            evaluation=path(evaluation),
            decision=path(decision),
            candidate=path(candidate),
            drift=path(drift),
            drift_page=path(drift_report),
            live=path(live),
            experiment=path(experiment),
            page=Path(report.path),
            short=Path(summary.path),
        )
        tell_summary(written)
        return uri
