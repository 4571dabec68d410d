"""Takes the content out of a card's HTML."""

from __future__ import annotations

import base64
import json
import re
from typing import Any


def components(html: str) -> list[dict[str, Any]]:
    """Return all components of a card that have a text or data, in order."""
    found: list[dict[str, Any]] = []

    def visit(component: Any) -> None:
        if isinstance(component, list):
            for each in component:
                visit(each)
        elif isinstance(component, dict):
            if "contents" not in component:
                found.append(component)
            visit(component.get("contents", []))

    match = re.search(r'window\.__MF_DATA__\["[^"]+"\]\s*=\s*"([^"]+)"', html)
    assert match, "a card has its data as base64"
    visit(json.loads(base64.b64decode(match[1]))["components"])
    return found


def text(html: str) -> str:
    """Return what a card says, as JSON."""
    return json.dumps(components(html), ensure_ascii=False)
