"""The matching model's domain: data, model, evidence, release and reports. Knows no Kubeflow.

Its rooms import only from the rooms above them (docs/architecture.md): base, storage, tracking, data, model, inputs,
evidence, live, release, reporting.
"""
