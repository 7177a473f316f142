"""The platform on a Kubernetes cluster: `python -m mlops.cluster`, and what its pods run of our code."""
