"""The pipelines on this machine: `kfp.local`, a subprocess or a container a step."""
