"""The small world of the serving tests."""

from tests.serving.conftest import full, full_id, incumbent_only, world

__all__ = ["full", "full_id", "incumbent_only", "world"]
