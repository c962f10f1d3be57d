"""Benchmarks: each is one command, writes results/<name>.json, and is rendered into RESULTS.md, never typed."""
