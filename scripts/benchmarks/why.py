"""Where we are behind what a user would write instead, and why: by group, step and cost."""

from __future__ import annotations

WHY: dict[tuple[str, ...], str] = {}
