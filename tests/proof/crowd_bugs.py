"""Bugs to be put into the package while a crowd works on it, each to show that the crowd would notice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {}
