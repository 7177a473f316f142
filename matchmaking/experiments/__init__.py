"""Controlled experiments in front of production: assignment, exposures, sequential statistics and their verdict."""
