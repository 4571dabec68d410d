"""What users install: the wheel, made from the source distribution and tried in a fresh environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

SMOKE = """
import sys
from importlib.resources import files

import sqlitestore
from sqlitestore import FlowDataStore

assert sqlitestore.__file__.startswith(sys.prefix), sqlitestore.__file__
assert files("sqlitestore").joinpath("FORMAT.md").is_file()
assert files("sqlitestore").joinpath("py.typed").is_file()
large = bytes(range(256)) * 4096
with FlowDataStore("SmokeFlow", ds_root="smoke.db") as flow:
    task = flow.get_task_datastore("1", "start", "1", attempt=0, mode="w")
    task.init_task()
    task.save_artifacts([("answer", 42), ("large", large)])
    task.done()
    [(_, key)] = flow.save_data([b"data"])
    assert dict(flow.load_data([key])) == {key: b"data"}
with FlowDataStore("SmokeFlow", ds_root="smoke.db") as flow:
    [task] = flow.get_latest_task_datastores(run_id="1")
    assert (task["answer"], task["large"]) == (42, large)
"""


class Built(NamedTuple):
    """The two distributions."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build from a copy, so that nothing appears in the checkout; setuptools is that of the test environment."""
    source = tmp_path_factory.mktemp("source") / "sqlitestore"
    skipped = shutil.ignore_patterns(".*", "*.db", "*.db-*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    out = tmp_path_factory.mktemp("dist")
    # Without --sdist or --wheel the wheel is made from the sdist, which so is shown to be whole.
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], cwd=out)
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(sdist, wheel)


def test_wheel_has_the_package_and_nothing_else(built: Built) -> None:
    """All modules, the format document, the typing marker and the licence are in the wheel; no tests, no scripts."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = ROOT / "sqlitestore"
    mapped = "sqlitestore/metaflow/metaflow_extensions/"  # to where Metaflow looks
    expected = {
        path.relative_to(ROOT).as_posix().replace(mapped, "metaflow_extensions/") for path in package.rglob("*.py")
    }
    expected |= {"sqlitestore/FORMAT.md", "sqlitestore/py.typed"}
    info = f"sqlitestore-{VERSION}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == expected
    assert {f"{info}licenses/LICENSE", f"{info}METADATA", f"{info}entry_points.txt"} <= names


def test_sdist_has_what_a_packager_needs(built: Built) -> None:
    """The source distribution has sources, build file, readme and licence; no databases and no environment."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "sqlitestore/FORMAT.md", "sqlitestore/__init__.py"} <= names
    assert not [name for name in names if name.endswith(".db") or ".venv" in name or "__pycache__" in name]


def test_installed_wheel_works(built: Built, tmp_path: Path) -> None:
    """In a fresh environment with only the wheel and its dependencies, the package and its command do their work."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
    python, command = str(bin_folder / "python"), str(bin_folder / "sqlitestore")
    _run([python, "-m", "pip", "install", "-qq", str(built.wheel)], cwd=tmp_path)
    _run([python, "-I", "-W", "error", "-c", SMOKE], cwd=tmp_path)
    assert _run([command, "--version"], cwd=tmp_path).startswith(f"sqlitestore {VERSION}")
    assert "SmokeFlow" in _run([command, "--file", "smoke.db", "ls"], cwd=tmp_path)
    assert _run([command, "--file", "smoke.db", "get", "SmokeFlow/1/start/1/answer", "--print"], cwd=tmp_path) == "42\n"
    found = _run([python, "-m", "pip", "list", "--format", "freeze"], cwd=tmp_path)
    assert not {line.partition("==")[0] for line in found.splitlines()} & {"metaflow", "numpy", "pandas", "pytest"}


FLOW = """
from metaflow import FlowSpec, step


class WheelFlow(FlowSpec):
    @step
    def start(self):
        self.answer = 42
        self.next(self.end)

    @step
    def end(self):
        print("the answer is", self.answer)


if __name__ == "__main__":
    WheelFlow()
"""


def test_installing_the_wheel_with_its_extra_is_enough_for_metaflow(built: Built, tmp_path: Path) -> None:
    """`pip install sqlitestore[metaflow]` registers the plug-in in a fresh environment: a flow runs on one file."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
    python, command = str(bin_folder / "python"), str(bin_folder / "sqlitestore")
    _run([python, "-m", "pip", "install", "-qq", f"sqlitestore[metaflow] @ file://{built.wheel}"], cwd=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    (work / "flow.py").write_text(FLOW)
    settings = {"USER": "tester", "USERNAME": "tester", "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(tmp_path)}
    _run([python, "flow.py", "--no-pylint", "--datastore=sqlite", "--metadata=sqlite", "run"], work, **settings)
    assert sorted(path.name for path in work.iterdir() if path.name != "__pycache__") == ["flow.py", "metaflow.db"]
    [run] = [line.split("\t")[0] for line in _run([command, "ls", "WheelFlow"], work).splitlines()[1:]]
    assert "42" in _run([command, "show", f"WheelFlow/{run}/end/2"], work)
    client = (
        "from metaflow import *; metadata('sqlite@metaflow.db'); namespace(None); run = Flow('WheelFlow').latest_run"
    )
    client += "; print(run.data.answer)"
    assert _run([python, "-c", client], work, **settings) == "42\n"


def _run(command: list[str], cwd: Path, **more: str) -> str:
    """Run a command outside of the checkout; return what it printed, or fail with it."""
    left_out = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out and "METAFLOW" not in name}
    done = subprocess.run(
        command, cwd=cwd, env=environment | more, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
