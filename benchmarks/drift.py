"""How often drift is found where there is none, and where there is: `python -m benchmarks.drift`.

One column of so many categories, even or by Zipf's law. False alarms: two samples of the same data. Power: in the
current one, a tenth of the rows have moved to the most frequent category. Beside it, the fixed thresholds of 0.1 alone.
"""

from __future__ import annotations

import numpy as np

from matchmaking.data.drift import THRESHOLDS, jensen_shannon, permuted_noise

PAIRS = 200
SIZES = ((12_000, 500), (12_000, 100), (1_000, 1_000), (300, 300))


def main() -> None:
    """Prints a row for each number of categories, size and shape."""
    rng = np.random.default_rng(0)
    limit = THRESHOLDS["nominal"]
    print(f"{PAIRS} pairs of samples each; threshold 0.1 alone / with the noise of chance")
    print(f"{'categories':>10} {'shape':>6} {'reference':>9} {'current':>8} {'false alarms':>17} {'power':>17}")
    for categories in (7, 40, 100):
        for shape in ("even", "zipf"):
            weights = np.ones(categories) if shape == "even" else 1 / np.arange(1, categories + 1)
            weights /= weights.sum()
            moved = 0.9 * weights + 0.1 * np.eye(categories)[0]
            for first, second in SIZES:
                rates = []
                for current_weights in (weights, moved):
                    found = np.zeros(2)
                    for _ in range(PAIRS):
                        reference = rng.multinomial(first, weights)
                        current = rng.multinomial(second, current_weights)
                        distance = jensen_shannon(reference / first, current / second)
                        noise = permuted_noise(reference + current, second, seed=0)
                        found += distance >= limit, distance >= max(limit, noise)
                    rates.append("{:7.1%} / {:6.1%}".format(*(found / PAIRS)))
                print(f"{categories:>10} {shape:>6} {first:>9,} {second:>8,} {rates[0]:>17} {rates[1]:>17}", flush=True)


if __name__ == "__main__":
    main()
