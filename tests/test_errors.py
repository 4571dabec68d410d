"""The tree of errors is an interface: kinds, families and built-in bases."""

from __future__ import annotations

import pytest

from sqlitestore import errors

TREE = {
    "DataException": ("data_error", "Exception", None),
    "InvalidInput": ("invalid_input", "DataException", ValueError),
    "InvalidName": ("invalid_name", "InvalidInput", ValueError),
    "InvalidPathspec": ("invalid_pathspec", "InvalidInput", ValueError),
    "InvalidKey": ("invalid_key", "InvalidInput", ValueError),
    "InvalidType": ("invalid_type", "InvalidInput", TypeError),
    "UnpicklableArtifactException": ("unpicklable_artifact", "InvalidInput", TypeError),
    "NotFound": ("not_found", "DataException", KeyError),
    "BlobNotFound": ("blob_not_found", "NotFound", KeyError),
    "ArtifactNotFound": ("artifact_not_found", "NotFound", KeyError),
    "TaskNotFound": ("task_not_found", "NotFound", KeyError),
    "BlobLeftOut": ("blob_left_out", "BlobNotFound", KeyError),
    "SerializerNotFound": ("serializer_not_found", "NotFound", KeyError),
    "Refused": ("refused", "DataException", RuntimeError),
    "AttemptDone": ("attempt_done", "Refused", RuntimeError),
    "WrongMode": ("wrong_mode", "Refused", AttributeError),
    "StoreClosed": ("store_closed", "Refused", RuntimeError),
    "StoreReadOnly": ("store_read_only", "Refused", RuntimeError),
    "FileExists": ("file_exists", "Refused", FileExistsError),
    "Untrusted": ("untrusted", "Refused", RuntimeError),
    "RunExists": ("run_exists", "Refused", RuntimeError),
    "StoreUnavailable": ("store_unavailable", "DataException", OSError),
    "StoreMissing": ("store_missing", "StoreUnavailable", OSError),
    "NotAStore": ("not_a_store", "StoreUnavailable", OSError),
    "NewerFormat": ("newer_format", "StoreUnavailable", OSError),
    "StoreBusy": ("store_busy", "StoreUnavailable", OSError),
    "DiskFull": ("disk_full", "StoreUnavailable", OSError),
    "Damaged": ("damaged", "DataException", None),
}


def test_the_tree_is_complete() -> None:
    """Every error class is in the table above, and nothing else."""
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_an_error_has_its_kind_family_and_builtin(name: str) -> None:
    """Programs tell errors apart by kind or class; messages are shown as they are, without quotes of KeyError."""
    kind, parent, builtin = TREE[name]
    cls = getattr(errors, name)
    assert cls.kind == kind
    assert cls.__bases__[0].__name__ == parent
    assert builtin is None or issubclass(cls, builtin)
    assert str(cls("what 'happened'")) == "what 'happened'"
    assert cls.__doc__
    assert name in (errors.__doc__ or "")
