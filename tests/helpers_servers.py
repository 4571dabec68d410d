"""Object stores on this machine's loopback, which tests start: moto's server for S3, Azurite for Azure."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SECONDS = 60
"""[s] After which a server that does not answer is taken for broken."""

NO_AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Credentials that no AWS takes: what is misdirected goes nowhere."""


class S3Server(NamedTuple):
    """A server that speaks S3. ``environment`` is what a process needs in order to use it."""

    url: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables for Metaflow, and for whatever uses AWS's."""
        urls = {"METAFLOW_S3_ENDPOINT_URL": self.url, "AWS_ENDPOINT_URL_S3": self.url}
        return {**NO_AWS, **urls, "METAFLOW_S3_WORKER_COUNT": "3"}  # 64 by default, each a process

    def bucket(self) -> str:
        """Make a bucket of a new name."""
        name = f"bucket-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str) -> dict[str, int]:
        """Return the sizes [bytes] of a bucket's objects by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until something listens on the port."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"{process.args} does not answer: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start moto's server, and let Metaflow and boto3 of this process use it."""
    import boto3

    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
            env={**os.environ, **NO_AWS},
        )
    try:
        until_it_answers(process, port, log)
        url = f"http://127.0.0.1:{port}"
        with pytest.MonkeyPatch.context() as patch:
            server = S3Server(url, None)
            for name, value in server.environment.items():
                patch.setenv(name, value)
            from metaflow import metaflow_config

            patch.setitem(metaflow_config.DATATOOLS_CLIENT_PARAMS, "endpoint_url", url)
            yield server._replace(client=boto3.client("s3", endpoint_url=url))
    finally:
        process.kill()
        process.wait()


ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere."""


class AzureServer(NamedTuple):
    """A server that speaks Azure's blob storage."""

    url: str
    service: Any

    def container(self) -> str:
        """Make a container of a new name."""
        name = f"container-{uuid.uuid4().hex}"
        self.service.create_container(name)
        return name

    def storage(self, root: str) -> Any:
        """Return Metaflow's storage. It knows tokens, for which Azurite wants HTTPS; here it gets a signature."""
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
        from metaflow.plugins.datastores import azure_storage

        signature = generate_account_sas(
            ACCOUNT,
            KEY,
            ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True),
            datetime.now(UTC) + timedelta(hours=3),
        )
        storage = azure_storage.AzureStorage(root)
        storage._root_client = azure_storage._AzureRootClient(root, shared_access_signature=signature)
        return storage


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Start Azurite, and let Metaflow's storage of this process use it."""
    if not shutil.which("npm"):
        pytest.skip("Azurite comes from npm, which is not on this machine")
    command = subprocess.run(
        [str(Path(__file__).parent.parent / "scripts" / "azurite")], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    from azure.storage.blob import BlobServiceClient
    from metaflow.plugins.azure import blob_service_client_factory

    port = free_port()
    folder = tmp_path_factory.mktemp("azurite")
    options = ["--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen([command, "--blobHost", "127.0.0.1", *options], stdout=output, stderr=output)
    try:
        until_it_answers(process, port, folder / "log")
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blob_service_client_factory, "AZURE_STORAGE_BLOB_SERVICE_ENDPOINT", url)
            yield AzureServer(url, BlobServiceClient(url, credential=KEY))
    finally:
        process.kill()
        process.wait()
