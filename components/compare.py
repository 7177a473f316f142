"""Decides whether the candidate is better."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def compare(
    run_id: str, scores: Input[Dataset], policy: str, seed: int, decision: Output[Artifact], page: Output[Markdown]
) -> str:
    """Decides on evidence whether the candidate is better than production.

    Args:
        run_id: the MLflow run.
        scores: parquet: label and both models' probabilities.
        policy: the promotion policy as YAML; empty for the default one.
        seed: of the bootstrap.
        decision: JSON: the verdict, with every number, interval and reason.
        page: the same for people.

    Returns:
        promote, hold, reject or bootstrap.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("compare", run_id, [decision], [scores]):
        from matchmaking.decision import decide_file

        return decide_file(Path(scores.path), policy, seed, Path(decision.path), Path(page.path))
