"""The public names, each from the module that it lives in; ``sqlitestore`` shows them."""

from sqlitestore.content_addressed_store import BlobCache, ContentAddressedStore
from sqlitestore.datastore_set import TaskDataStoreSet
from sqlitestore.errors import (
    ArtifactNotFound,
    AttemptDone,
    BlobLeftOut,
    BlobNotFound,
    Damaged,
    DataException,
    DiskFull,
    FileExists,
    InvalidInput,
    InvalidKey,
    InvalidName,
    InvalidPathspec,
    InvalidType,
    NewerFormat,
    NotAStore,
    NotFound,
    Refused,
    RunExists,
    SerializerNotFound,
    StoreBusy,
    StoreClosed,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
    TaskNotFound,
    UnpicklableArtifactException,
    Untrusted,
    WrongMode,
)
from sqlitestore.flow_datastore import FlowDataStore, MetadataCache
from sqlitestore.inputs import Inputs
from sqlitestore.pickling import SERIALIZERS, Serializer
from sqlitestore.storage import DataStoreStorage, SQLiteStorage
from sqlitestore.task_datastore import TaskDataStore

register_serializer = SERIALIZERS.register
unregister_serializer = SERIALIZERS.unregister

__all__ = [
    "ArtifactNotFound",
    "AttemptDone",
    "BlobCache",
    "BlobLeftOut",
    "BlobNotFound",
    "ContentAddressedStore",
    "Damaged",
    "DataException",
    "DataStoreStorage",
    "DiskFull",
    "FileExists",
    "FlowDataStore",
    "Inputs",
    "InvalidInput",
    "InvalidKey",
    "InvalidName",
    "InvalidPathspec",
    "InvalidType",
    "MetadataCache",
    "NewerFormat",
    "NotAStore",
    "NotFound",
    "Refused",
    "RunExists",
    "SQLiteStorage",
    "Serializer",
    "SerializerNotFound",
    "StoreBusy",
    "StoreClosed",
    "StoreMissing",
    "StoreReadOnly",
    "StoreUnavailable",
    "TaskDataStore",
    "TaskDataStoreSet",
    "TaskNotFound",
    "UnpicklableArtifactException",
    "Untrusted",
    "WrongMode",
    "register_serializer",
    "unregister_serializer",
]
