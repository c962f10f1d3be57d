"""Statistics that may be looked at after every event: intervals over users, each with its source and assumptions.

numpy and the standard library alone, because the guardrail watcher runs where serving runs. ``docs/statistics.md`` says
which gate uses which interval and how to read it.
"""
