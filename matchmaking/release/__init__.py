"""Packages, the model registry, and production: checking a promotion, making it, taking it back, its audit trail.

Only `release.store` writes to production.
"""
