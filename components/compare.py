"""Decides whether the candidate is better."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def compare(
    run_id: str,
    scores: Input[Dataset],
    evaluation: Input[Artifact],
    data_report: Input[Artifact],
    policy: str,
    seed: int,
    decision: Output[Artifact],
    verdict: Output[Markdown],
) -> str:
    """Decides on evidence whether the candidate is better than production.

    Args:
        run_id: the MLflow run.
        scores: parquet: label and both models' probabilities.
        evaluation: JSON: with the serving contract.
        data_report: JSON: what was noticed in the dataset.
        policy: the promotion policy as YAML; empty for the default one.
        seed: of the bootstrap.
        decision: JSON: the verdict, with every number, interval and reason.
        verdict: the same for people.

    Returns:
        How the candidate may be promoted: "automatic" (the policy lets this run do it), "by hand", or "no". (One
        unnamed output: kfp.local evaluates dsl.If on no other.)
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("compare", run_id, {"Decision": decision, "Verdict": verdict}, [scores, evaluation, data_report]):
        from matchmaking.evidence.compare import decide_file
        from matchmaking.release.package import promotable

        paths = (Path(decision.path), Path(verdict.path), Path(evaluation.path), Path(data_report.path))
        return promotable(decide_file(Path(scores.path), policy, seed, *paths))
