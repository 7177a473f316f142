"""Whether a candidate is better, and safe: metrics, the serving contract, the policy, the tests and the verdict."""

# what is measured, and in this order shown
MODELS = ("production", "candidate")
