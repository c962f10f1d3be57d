"""Real events of users whom no model has seen, sent to a running service as if they happened now."""
