"""Segue carries a recommender from a cascade to a generative model, one measured, reversible stage at a time."""

__version__ = "0.1.0"
