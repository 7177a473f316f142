"""Whether a candidate is better, and safe: metrics, the serving contract, the policy, the tests and the verdict."""
