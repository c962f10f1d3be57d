"""Which way to migrate, what it takes, and a plan: from what was measured and what only the team can answer (docs/advisor.md)."""
