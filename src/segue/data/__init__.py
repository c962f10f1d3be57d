"""From raw tables to validated, split, memory-mapped sequences."""
