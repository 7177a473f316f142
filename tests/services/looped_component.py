"""Steps of a loop, as `tests/services/test_docker_loops.py` runs them in containers of the image `base`."""

from kfp import dsl

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def slow(item: int, failing: int) -> int:
    """Leaves nothing, tells when it has begun, and takes two minutes, or two seconds and fails."""
    import sys
    import time

    print(f"begun: {item}", flush=True)
    time.sleep(2 if item == failing else 120 if failing < 0 else 4)
    if item == failing:
        sys.exit(7)
    return item


@dsl.pipeline(name="slow-loop")
def slow_loop(failing: int = -1) -> None:
    """Four items, two at a time."""
    with dsl.ParallelFor([0, 1, 2, 3], parallelism=2) as item:
        slow(item=item, failing=failing)
