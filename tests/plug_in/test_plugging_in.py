"""How Metaflow finds the plug-in, and what it overrides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow.plugins import DATACLIENTS, DATASTORES, ENVIRONMENTS, METADATA_PROVIDERS, get_plugin_cli
from metaflow_extensions.sqlitestore.plugins import environments
from metaflow_extensions.sqlitestore.plugins.dataclient import SQLiteDataClient, SQLiteFileNotFound
from metaflow_extensions.sqlitestore.plugins.problems import SQLiteStoreException, as_metaflow
from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage


def run_python(code: str, folder: Path, **variables: str) -> Any:
    """Run code in a fresh Python with Metaflow's variables as given; return its JSON answer."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METAFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=inherited | {"HOME": str(folder), "USERNAME": "tester"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_everything_is_registered() -> None:
    """The datastore, the provider, the data client, and the environments and cards that stand in for Metaflow's."""
    for found in (DATASTORES, METADATA_PROVIDERS, DATACLIENTS):
        [ours] = [each for each in found if each.TYPE == "sqlite"]
        assert ours.__module__.startswith("metaflow_extensions.sqlitestore.")
        assert any(each.TYPE == "local" for each in found)
    assert {each.TYPE for each in ENVIRONMENTS if each.__module__ == environments.__name__} == {"conda", "pypi"}
    [card] = [group for group in get_plugin_cli() if list(group.commands) == ["card"]]
    assert {"create", "get", "list", "view", "server"} <= set(card.commands["card"].commands)


def test_importing_metaflow_loads_nothing_of_ours(tmp_path: Path) -> None:
    """Neither apsw nor the package: most processes never touch a store, and a broken one must not break them."""
    code = """
import json, sys, metaflow
print(json.dumps([name for name in ("apsw", "sqlitestore", "xxhash") if name in sys.modules]))
"""
    assert run_python(code, tmp_path) == []


def test_a_python_without_sqlitestore_says_what_to_install(tmp_path: Path) -> None:
    """As in a conda environment that does not have it: a message of Metaflow's kind, and Metaflow itself works."""
    code = """
import json, sys
sys.modules["apsw"] = None
import metaflow
from metaflow.exception import MetaflowException
from metaflow.plugins import DATASTORES
[kind] = [each for each in DATASTORES if each.TYPE == "sqlite"]
try:
    kind("runs.db").is_file(["a"])
except MetaflowException as error:
    print(json.dumps(str(error)))
"""
    assert "needs the package sqlitestore" in run_python(code, tmp_path)


def test_other_import_errors_are_not_ours() -> None:
    """What a user's code cannot import is reported as it is."""
    with pytest.raises(ModuleNotFoundError), as_metaflow():
        import no_such_module_at_all  # noqa: F401
    with pytest.raises(SQLiteStoreException), as_metaflow():
        raise ModuleNotFoundError("No module named 'apsw'", name="apsw")


@pytest.mark.parametrize("way", ["variable", "profile", "nearest", "default"])
def test_the_file_is_found_as_metaflow_users_expect(tmp_path: Path, way: str) -> None:
    """By the environment variable, a profile, the nearest metaflow.db above, or metaflow.db in the working folder."""
    home, work = tmp_path / ".metaflowconfig", tmp_path / "a" / "b"
    home.mkdir()
    work.mkdir(parents=True)
    variables = {"HOME": str(tmp_path), "METAFLOW_HOME": str(home)}
    expected = work / "metaflow.db"
    if way == "variable":
        variables["METAFLOW_DATASTORE_SYSROOT_SQLITE"] = str(tmp_path / "v.db")
        expected = tmp_path / "v.db"
    elif way == "profile":
        settings = {
            "METAFLOW_DATASTORE_SYSROOT_SQLITE": str(tmp_path / "p.db"),
            "METAFLOW_DEFAULT_DATASTORE": "sqlite",
            "METAFLOW_DEFAULT_METADATA": "sqlite",
        }
        (home / "config_laptop.json").write_text(json.dumps(settings))
        variables["METAFLOW_PROFILE"] = "laptop"
        expected = tmp_path / "p.db"
    elif way == "nearest":
        expected = tmp_path / "metaflow.db"
        code = "import sqlitestore; sqlitestore.FlowDataStore('F', ds_root=%r).close(); print(0)"
        run_python(code % str(expected), tmp_path)
    code = """
import json
from metaflow import get_metadata
from metaflow.plugins import DATASTORES
storage = [each for each in DATASTORES if each.TYPE == "sqlite"][0]
print(json.dumps([storage.get_datastore_root_from_config(lambda text: None), get_metadata()]))
"""
    root, metadata = run_python(code, work, **variables)
    assert root == str(expected)
    assert metadata.startswith("sqlite@" + root if way == "profile" else "local@")


def test_environments_take_our_files_for_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conda's and PyPI's know four types of datastore; the others are passed on as they are."""
    told: list[str] = []
    for kind in (environments.SQLiteCondaEnvironment, environments.SQLitePyPIEnvironment):
        theirs = next(base for base in kind.__mro__ if base.__module__ == "metaflow.plugins.pypi.conda_environment")
        monkeypatch.setattr(theirs, "validate_environment", lambda _self, _logger, datastore: told.append(datastore))
        for datastore in ("sqlite", "s3", "local"):
            kind(SimpleNamespace(name="Flow")).validate_environment(print, datastore)
    assert told == ["local", "s3", "local"] * 2


def test_included_files_move_with_the_file(tmp_path: Path) -> None:
    """Their URLs name no path of the machine; the gzip that Metaflow puts around them is not stored."""
    SQLiteDatastoreStorage.datastore_root = str(tmp_path / "runs.db")
    import gzip

    with SQLiteDataClient() as client:
        root = client.get_root_from_config(print)
        url = client.put(f"{root}/Flow/abc", gzip.compress(b"words " * 1000), overwrite=False)
        assert url == "sqlite://mf.datatools/Flow/abc"
        plain = client.put(f"{root}/Flow/def", b"no gzip")
        assert client.put(f"{root}/Flow/def", b"other", overwrite=False) == plain
        with gzip.open(client.get(url).path) as file:
            assert file.read() == b"words " * 1000
        assert Path(client.get(plain).path).read_bytes() == b"no gzip"
        assert client.info(plain).size == 7
    from sqlitestore.paths.stores import open_stores

    [store] = open_stores()
    assert store.files.find("mf.datatools/Flow/abc")[1:] == (6000, '{"gzip": true}')  # type: ignore[index]
    store.database.close()
    (tmp_path / "runs.db").rename(tmp_path / "moved.db")
    SQLiteDatastoreStorage.datastore_root = str(tmp_path / "moved.db")
    with SQLiteDataClient() as client:
        assert client.get(url).exists
        assert not client.get("sqlite://mf.datatools/Flow/no", return_missing=True).exists
        with pytest.raises(SQLiteFileNotFound, match=r"mf[.]datatools/Flow/no"):
            client.get("sqlite://mf.datatools/Flow/no")
    assert [path.name for path in tmp_path.glob("*.db")] == ["moved.db"]


def test_a_provider_that_is_only_asked_makes_no_file(tmp_path: Path) -> None:
    """Of a file that is not there nothing is known; as the place of a provider it is refused."""
    SQLiteDatastoreStorage.datastore_root = str(tmp_path / "runs.db")
    provider = SQLiteMetadataProvider
    assert provider.get_object("root", "flow", None, None) == []
    assert provider.get_object("run", "self", None, None, "Flow", "1") is None
    assert provider.filter_tasks_by_metadata("Flow", "1", "start", "a", "b") == []
    with pytest.raises(ValueError, match="There is no file"):
        provider.compute_info(str(tmp_path / "other.db"))
    assert provider.default_info() == str(tmp_path / "runs.db")
    assert os.listdir(tmp_path) == []
