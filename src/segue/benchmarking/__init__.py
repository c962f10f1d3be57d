"""Benchmarks that a user may run on data of their own."""
