"""An artifact store for data-science flows in one SQLite file, speaking Metaflow's datastore API.

>>> from sqlitestore import FlowDataStore
>>> with FlowDataStore("TrainFlow", ds_root="runs.db") as flow:
...     task = flow.get_task_datastore("1", "train", "7", attempt=0, mode="w")
...     task.init_task()
...     task.save_artifacts([("auc", 0.93)])
...     task.done()
"""

from sqlitestore.content_addressed_store import BlobCache, ContentAddressedStore
from sqlitestore.datastore_set import TaskDataStoreSet
from sqlitestore.errors import (
    ArtifactNotFound,
    AttemptDone,
    BlobNotFound,
    Damaged,
    DataException,
    DiskFull,
    InvalidInput,
    InvalidKey,
    InvalidName,
    InvalidPathspec,
    InvalidType,
    NewerFormat,
    NotAStore,
    NotFound,
    Refused,
    SerializerNotFound,
    StoreBusy,
    StoreClosed,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
    TaskNotFound,
    UnpicklableArtifactException,
    WrongMode,
)
from sqlitestore.flow_datastore import FlowDataStore, MetadataCache
from sqlitestore.inputs import Inputs
from sqlitestore.pickling import SERIALIZERS as _SERIALIZERS
from sqlitestore.pickling import Serializer
from sqlitestore.storage import DataStoreStorage, SQLiteStorage
from sqlitestore.task_datastore import TaskDataStore

register_serializer = _SERIALIZERS.register
unregister_serializer = _SERIALIZERS.unregister

__all__ = [
    "ArtifactNotFound",
    "AttemptDone",
    "BlobCache",
    "BlobNotFound",
    "ContentAddressedStore",
    "Damaged",
    "DataException",
    "DataStoreStorage",
    "DiskFull",
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
    "WrongMode",
    "register_serializer",
    "unregister_serializer",
]
