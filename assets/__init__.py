"""Dagster assets: thin. Each calls one step of ``segue.steps`` and attaches metadata, plots and check results."""
