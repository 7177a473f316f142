"""What everything stands on: errors with their exit codes, settings, whole files, records, harmless texts.

Knows nothing of matching.
"""
