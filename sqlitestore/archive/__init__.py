"""Runs on their way between files: export, import (``merge``), trust and diff, all over an open store."""
