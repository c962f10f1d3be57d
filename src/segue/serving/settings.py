"""Settings of the serving check and the Bento."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from segue.schema import PathName
from segue.settings import Settings


class ServingSettings(Settings):
    """``default_k`` and ``path_budget_ms`` go into the bundle; the rest is for building and checking it."""

    default_k: int = Field(10, ge=1)
    path_budget_ms: float = Field(
        500.0, gt=0
    )  # what one request may take on one path before the next one answers
    image: Literal["gpu", "cpu"] = "gpu"
    check_requests: int = Field(200, ge=1)  # to each path
    # Add what a stage is to serve, where that is another one: a policy asks for its latency and invalid rate then.
    check_paths: tuple[PathName, ...] = Field((PathName.GENERATIVE, PathName.CASCADE), min_length=1)
    check_concurrency: int = Field(4, ge=1)
    check_start_seconds: float = Field(60.0, gt=0)  # how long the server may take to start
    check_seed: int = 17
    poll_seconds: float = Field(0.5, gt=0)


def bundled(settings: ServingSettings) -> dict[str, Any]:
    """What of the settings a bundle carries, so that it serves the same wherever it is loaded."""
    return {"default_k": settings.default_k, "path_budget_ms": settings.path_budget_ms}
