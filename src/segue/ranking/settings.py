"""Settings of the rules every path obeys."""

from __future__ import annotations

from segue.settings import Settings


class RuleSettings(Settings):
    filter_seen: bool = True
