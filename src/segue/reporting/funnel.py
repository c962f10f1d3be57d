"""Lists shown, to named users, with a click: by arm, each arm on a scale of its own, because their shares differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from segue.reporting.online_traffic import ArmTraffic
from segue.reporting.render import count, percent

WIDTH, LABELS, FIGURES, ROW, GAP = 880, 210, 190, 26, 18


def funnel_chart(arms: Sequence[ArmTraffic], names: Mapping[str, str], *, caption: str) -> Markup:
    """``names``: what an arm is called. A bar is the part of the step's own arm that is left."""
    steps = 3
    height = len(arms) * (steps * ROW + GAP + 18)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    top = 0
    for arm in arms:
        parts.append(
            f'<text class="label strong" x="0" y="{top + 14}">{escape(names.get(arm.arm, arm.arm))}</text>'
        )
        top += 20
        for said, value, of in (
            ("Lists shown", arm.lists, arm.lists),
            ("to a named user", arm.named_lists, arm.lists),
            ("with a click", arm.clicked_lists, arm.named_lists),
        ):
            length = (WIDTH - LABELS - FIGURES) * value / max(arm.lists, 1)
            share = "" if said == "Lists shown" else f" \N{MIDDLE DOT} {percent(value / max(of, 1))}"
            parts.append(
                f'<text class="note" x="12" y="{top + 15}">{said}</text>'
                f'<rect class="column" x="{LABELS}" y="{top + 2}" width="{max(length, 1.5):.1f}" height="17" rx="4"/>'
                f'<text class="figure" x="{LABELS + length + 10:.1f}" y="{top + 15}">{count(value)}'
                f'<tspan class="note">{share}</tspan></text>'
            )
            top += ROW
        top += GAP - 2
    return Markup("".join([*parts, "</svg>"]))
