"""Bundles, and their projection into MLflow."""
