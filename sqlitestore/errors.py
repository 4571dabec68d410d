"""Every error that sqlitestore raises, grouped by what the caller does about it.

::

    DataException                      anything that went wrong with a datastore
    ├── InvalidInput (ValueError)      change the call
    │   ├── InvalidName                a flow, run, step, task, artifact or metadata name
    │   ├── InvalidPathspec            a pathspec that does not parse
    │   ├── InvalidKey                 a key that is no key
    │   ├── InvalidType (TypeError)    a value of the wrong type
    │   └── UnpicklableArtifactException (TypeError)
    ├── NotFound (KeyError)            look elsewhere, or write it first
    │   ├── BlobNotFound
    │   │   └── BlobLeftOut            in the file that the archive was made from
    │   ├── ArtifactNotFound
    │   ├── TaskNotFound
    │   └── SerializerNotFound         install what wrote the artifact
    ├── Refused (RuntimeError)         the call is fine, but not here and now
    │   ├── AttemptDone                a done attempt is never written again
    │   ├── WrongMode (AttributeError) a reader asked to write, or the other way round
    │   ├── StoreClosed
    │   ├── StoreReadOnly
    │   ├── FileExists (FileExistsError) give another name; nothing is replaced
    │   ├── Untrusted                  a run of somebody else's, before you trust it
    │   └── RunExists                  another run of this name is there
    ├── StoreUnavailable (OSError)     look at the file, the disk or the other processes
    │   ├── StoreMissing               no file, or no folder to make it in
    │   ├── NotAStore                  not a database, or another program's
    │   ├── NewerFormat                written by a newer sqlitestore
    │   ├── StoreBusy                  another process held the write lock for minutes
    │   └── DiskFull
    └── Damaged                        what was read is not what was written

Each class carries ``kind``, a stable word for programs. Messages name the pathspec, artifact, key or file, and what to
do; they may change, ``kind`` does not. (The idea of the tree: icechunk's Python errors.)
"""

from __future__ import annotations

from typing import ClassVar


class DataException(Exception):
    """Base of all errors of this package; the name is Metaflow's."""

    kind: ClassVar[str] = "data_error"

    def __init__(self, message: str = "") -> None:
        """Keep ``message`` apart: ``KeyError`` and ``OSError`` would print it in their own way."""
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class InvalidInput(DataException, ValueError):
    """An argument that no store could accept; nothing was changed."""

    kind = "invalid_input"


class InvalidName(InvalidInput):
    """A name that is empty, too long, or has a character that names may not have."""

    kind = "invalid_name"


class InvalidPathspec(InvalidInput):
    """A pathspec that does not have the form that the call expects."""

    kind = "invalid_pathspec"


class InvalidKey(InvalidInput):
    """A blob key that is not 32 (xxh3-128) or 40 (SHA-1) hexadecimal digits."""

    kind = "invalid_key"


class InvalidType(InvalidInput, TypeError):
    """A value of a type that the call does not take."""

    kind = "invalid_type"


class UnpicklableArtifactException(InvalidInput, TypeError):
    """An artifact that its serializer could not write; the cause is chained. The name is Metaflow's."""

    kind = "unpicklable_artifact"


class NotFound(DataException, KeyError):
    """The thing asked for is not in the store."""

    kind = "not_found"


class BlobNotFound(NotFound):
    """No blob has the key."""

    kind = "blob_not_found"


class BlobLeftOut(BlobNotFound):
    """The blob of an artifact that an export left out, or that a damaged file had lost."""

    kind = "blob_left_out"


class ArtifactNotFound(NotFound):
    """The task has no artifact of the name."""

    kind = "artifact_not_found"


class TaskNotFound(NotFound):
    """The task does not exist, or has no attempt that may be read."""

    kind = "task_not_found"


class SerializerNotFound(NotFound):
    """No serializer is installed for the artifact's encoding."""

    kind = "serializer_not_found"


class Refused(DataException, RuntimeError):
    """A call that is right in itself but not allowed in this state."""

    kind = "refused"


class AttemptDone(Refused):
    """The attempt is done; its artifacts never change again."""

    kind = "attempt_done"


class WrongMode(Refused, AttributeError):
    """A method of another mode: asked of a reader, a writer or a scrubber that does not have it."""

    kind = "wrong_mode"


class StoreClosed(Refused):
    """The store was closed."""

    kind = "store_closed"


class StoreReadOnly(Refused):
    """A write to a file or folder that can only be read."""

    kind = "store_read_only"


class FileExists(Refused, FileExistsError):
    """There is a file of that name already."""

    kind = "file_exists"


class Untrusted(Refused):
    """Loading an artifact of a run that came from somebody else and is not trusted yet."""

    kind = "untrusted"


class RunExists(Refused):
    """A run of this name is there, with other content."""

    kind = "run_exists"


class StoreUnavailable(DataException, OSError):
    """The file cannot be used as a store."""

    kind = "store_unavailable"


class StoreMissing(StoreUnavailable):
    """There is no file, or no folder to create it in."""

    kind = "store_missing"


class NotAStore(StoreUnavailable):
    """The file is no database, or belongs to another program."""

    kind = "not_a_store"


class NewerFormat(StoreUnavailable):
    """The file was written by a newer version of sqlitestore."""

    kind = "newer_format"


class StoreBusy(StoreUnavailable):
    """Another process held the lock for longer than the busy timeout."""

    kind = "store_busy"


class DiskFull(StoreUnavailable):
    """The disk has no room; the transaction was rolled back."""

    kind = "disk_full"


class Damaged(DataException):
    """Stored bytes or rows do not match their digests: the file was changed or is broken."""

    kind = "damaged"
