"""The dashboard: one page over all runs, from MLflow's records and the audit trail, without a state of its own.

`records` reads, `reigns` and `now` work out what it means, `data` is what the page's script draws from, `charts` are
the charts, `assets` their script, `page` the page, `gauges` and `server` what is served of it.
"""
