"""What runs, submits, schedules and installs the pipelines: the command line, local runs, Kubeflow, the cluster."""
