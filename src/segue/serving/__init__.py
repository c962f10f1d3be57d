"""The engine behind any server."""
