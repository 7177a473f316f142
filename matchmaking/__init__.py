"""The matching model's domain: data, model, metrics, decision, drift and promotion. Knows no Kubeflow."""
