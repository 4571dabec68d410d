"""Metaflow's own storages, from what people write: a folder, s3://..., azure://..., gs://...

The one place outside the plug-in that imports Metaflow, and only when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sqlitestore.errors import InvalidInput, StoreMissing, StoreReadOnly, StoreUnavailable

FOLDER = ".metaflow"

EXTRAS = {"s3": "boto3", "azure": "azure-storage-blob and azure-identity", "gs": "google-cloud-storage"}
"""What each scheme needs beside Metaflow; the extra has the scheme's name."""


def storage_at(place: str, *, create: bool = False, dry_run: bool = False) -> Any:
    """Return Metaflow's storage for a place, which was asked whether it is there.

    ``place`` is a folder ``.metaflow`` or the folder that it is in (with ``create`` it is made, unless ``dry_run``),
    ``s3://bucket/prefix``, ``azure://container/prefix`` or ``gs://bucket/prefix``. Raises InvalidInput, StoreMissing,
    StoreReadOnly and StoreUnavailable, each of which says what to do.
    """
    scheme, found, rest = place.partition("://")
    if not found:
        return _local(place, create=create, dry_run=dry_run)
    opened: dict[str, Callable[[str], Any]] = {"s3": _s3, "azure": _azure, "gs": _gs}
    if scheme not in opened or not rest.strip("/"):
        raise InvalidInput(
            f"{place!r} is no place to push to or pull from: give a folder, s3://bucket/prefix, "
            "azure://container/prefix or gs://bucket/prefix."
        )
    try:
        return opened[scheme](rest.rstrip("/"))
    except ImportError as error:
        raise StoreUnavailable(_to_install(scheme, error)) from error
    except (InvalidInput, StoreUnavailable):
        raise
    except Exception as error:
        if "Missing required packages" in str(error) or "requires" in str(error):
            raise StoreUnavailable(_to_install(scheme, error)) from error
        raise StoreUnavailable(f"{place} cannot be used: {_first_line(error)}") from error


def as_storage(place: Any, *, create: bool = False, dry_run: bool = False) -> Any:
    """Return ``storage_at`` of a place given as text or path; a storage of Metaflow's kind is returned as it is."""
    if isinstance(place, str | os.PathLike):
        return storage_at(os.fspath(place), create=create, dry_run=dry_run)
    return place


def _to_install(scheme: str, error: object) -> str:
    return (
        f"Places {scheme}://... need Metaflow and {EXTRAS.get(scheme, 'nothing more')}: "
        f"pip install 'sqlitestore[{scheme}]' ({_first_line(error)})"
    )


def _first_line(error: object) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said[:300]


def _local(place: str, *, create: bool, dry_run: bool) -> Any:
    path = os.path.abspath(os.path.expanduser(place))
    if os.path.basename(path) != FOLDER:
        if not os.path.isdir(path):
            raise StoreMissing(f"There is no folder {path}.")
        path = os.path.join(path, FOLDER)
    if not os.path.isdir(path):
        if not create:
            raise StoreMissing(f"There is no folder {path}: {os.path.dirname(path)} is not where Metaflow has run.")
        try:
            if not dry_run:
                os.mkdir(path)
        except PermissionError as error:
            raise StoreReadOnly(f"The folder {path} cannot be made: {error.strerror}.") from error
        except OSError as error:
            raise StoreMissing(f"The folder {path} cannot be made: {error.strerror}.") from error
    if create and not os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK):
        raise StoreReadOnly(f"The folder {path} cannot be written; see its permissions.")
    try:
        from metaflow.plugins.datastores.local_storage import LocalStorage
    except ImportError as error:
        raise StoreUnavailable(
            f"push and pull use Metaflow's storages: pip install 'sqlitestore[metaflow]' ({_first_line(error)})"
        ) from error
    return LocalStorage(path)


def _s3(rest: str) -> Any:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    from metaflow.plugins.datastores.s3_storage import S3Storage

    root = f"s3://{rest}"
    bucket = rest.partition("/")[0]
    storage = S3Storage(root)
    try:  # Metaflow's own storage would try again for minutes
        storage.s3_client.client.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        if code in {"404", "NoSuchBucket"}:
            raise StoreMissing(f"There is no bucket {bucket}; make it, or look at the name.") from error
        if code in {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
            raise StoreUnavailable(f"The bucket {bucket} may not be used with these credentials ({code}).") from error
        raise StoreUnavailable(f"The bucket {bucket} cannot be used: {_first_line(error)}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreUnavailable(
            f"There are no credentials for {root}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        raise StoreUnavailable(
            f"{root} cannot be reached; see the network, or METAFLOW_S3_ENDPOINT_URL: {_first_line(error)}"
        ) from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"{root} cannot be used: {_first_line(error)}") from error
    return storage


def _azure(rest: str) -> Any:
    from metaflow.plugins.datastores.azure_storage import AzureStorage

    storage = AzureStorage(rest)
    if not storage.root_client.get_blob_container_client().exists():
        container = rest.partition("/")[0]
        raise StoreMissing(f"There is no container {container}; make it, or look at the name.")
    return storage


def _gs(rest: str) -> Any:
    from metaflow.plugins.datastores.gs_storage import GSStorage

    storage = GSStorage(f"gs://{rest}")
    bucket = rest.partition("/")[0]
    if not storage.root_client.client.bucket(bucket).exists():
        raise StoreMissing(f"There is no bucket {bucket}; make it, or look at the name.")
    return storage
