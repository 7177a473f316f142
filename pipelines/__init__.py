"""The pipelines: one DAG a file, what their pods carry, and the compiler."""
