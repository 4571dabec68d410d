"""By this Metaflow knows that the plug-in is there, and which version. Every public name here would become its own."""

from importlib import metadata as _metadata

__mf_extensions__ = "sqlitestore"

try:
    __version__ = _metadata.version("sqlitestore")
except _metadata.PackageNotFoundError:  # used from a source folder
    __version__ = "(source)"
