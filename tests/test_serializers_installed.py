"""Serializers that installed distributions offer by entry points: found, in order, named where missing.

Each test runs a process of its own: what is installed is looked up once in a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from sqlite_oracle import check_file


@pytest.fixture
def path(tmp_path):
    """Name the store, which has to be sound after the test."""
    yield tmp_path / "runs.db"
    check_file(tmp_path / "runs.db")


PLUGIN = """
from sqlitestore import Serializer

class Complex(Serializer):
    encoding = "complex-text-v1"
    def can_serialize(self, obj): return isinstance(obj, complex)
    def serialize(self, obj, file): file.write(str(obj).encode())
    def deserialize(self, file, info): return complex(file.read().decode())

class Bool(Complex):
    encoding = "bool-text-v1"
    def can_serialize(self, obj): return isinstance(obj, (complex, bool))
    def deserialize(self, file, info): return file.read() == b"True"

ready = Bool()
"""

PROGRAM = """
import json, sys, warnings
from sqlitestore import FlowDataStore, SerializerNotFound
with warnings.catch_warnings(record=True) as caught, FlowDataStore("Flow", ds_root=sys.argv[1]) as flow:
    warnings.simplefilter("always")
    if sys.argv[2] == "save":
        writer = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("c", 1 + 2j), ("b", True), ("i", 5)])
        writer.done()
    reader = flow.get_task_datastore("1", "step", "1")
    info = {name: [i["encoding"], i.get("serializer_info")] for name, i in reader.ds_metadata["info"].items()}
    values = {}
    for name in ("c", "b", "i"):
        try:
            values[name] = str(reader[name])
        except SerializerNotFound as error:
            values[name] = str(error)
print(json.dumps({"info": info, "values": values, "warnings": [str(each.message) for each in caught]}))
"""


def run_with(plugins, path, what):
    """Run the program above in a process that finds the distributions of the folder ``plugins``; return its answer."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(plugins)!r})\n{PROGRAM}", path, what],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def install(folder, name, entry_points, module):
    """Make a distribution as an installer would leave it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sqlitestore.serializers]\n" + textwrap.dedent(entry_points))
    (folder / f"{name.replace('-', '_')}.py").write_text(module)


def test_installed_distributions_offer_serializers(path, tmp_path):
    """Entry points name classes or instances, are asked in the order of their names, and are named where missing."""
    install(tmp_path / "good", "fake-numbers", "z = fake_numbers:Complex\na = fake_numbers:ready\n", PLUGIN)
    saved_there = run_with(tmp_path / "good", path, "save")
    assert saved_there["info"] == {
        "b": ["bool-text-v1", {"source": "fake-numbers"}],
        "c": ["bool-text-v1", {"source": "fake-numbers"}],
        "i": ["pickle-v5", None],
    }
    assert saved_there["values"] == {"c": "False", "b": "True", "i": "5"}
    assert saved_there["warnings"] == []
    elsewhere = run_with(tmp_path / "nothing", path, "load")
    assert elsewhere["values"]["i"] == "5"
    assert all("install 'fake-numbers'" in elsewhere["values"][name] for name in "cb")


RESTRICTED = """
from sqlitestore import Serializer

class Restricted(Serializer):
    encoding = "restricted-v1"
    also_reads = frozenset({"pickle-v5"})
    def can_serialize(self, obj): return False
    def serialize(self, obj, file): raise AssertionError
    def deserialize(self, file, info): return "not unpickled"
"""


def test_an_installed_serializer_may_read_pickles_its_own_way(path, tmp_path):
    """It is asked before pickle for reading, too: else one that restricts what is unpickled would do nothing."""
    assert run_with(tmp_path / "nothing", path, "save")["values"]["i"] == "5"
    install(tmp_path / "plugins", "fake-restricted", "r = fake_restricted:Restricted\n", RESTRICTED)
    assert set(run_with(tmp_path / "plugins", path, "load")["values"].values()) == {"not unpickled"}


def test_broken_entry_point_is_skipped(path, tmp_path):
    """An entry point that does not load, or is no serializer, is skipped with a warning that names it."""
    entries = "no_module = fake_missing:Complex\nno_name = fake_broken:Nothing\nno_serializer = fake_broken:thing\n"
    install(tmp_path / "plugins", "fake-broken", entries, "thing = 5\n")
    install(tmp_path / "plugins", "fake-numbers", "z = fake_numbers:Complex\n", PLUGIN)
    answer = run_with(tmp_path / "plugins", path, "save")
    assert answer["info"]["c"] == ["complex-text-v1", {"source": "fake-numbers"}]
    assert answer["values"]["c"] == "(1+2j)"
    assert [name for name in ("no_module", "no_name", "no_serializer") if name in " ".join(answer["warnings"])] == [
        "no_module",
        "no_name",
        "no_serializer",
    ]
    assert len(answer["warnings"]) == 3
