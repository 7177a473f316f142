"""The pipelines on a Kubeflow Pipelines server: its API, runs, schedules, and their agreement with MLflow."""
