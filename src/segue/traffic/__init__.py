"""The client's side of a running service: asking it, and counting what it showed. Used by replay and simulation."""
