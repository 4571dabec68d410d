"""The house: who may import whom, and what belongs into which room. See the module docstrings for the reasons."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sqlitestore

ROOT = Path(sqlitestore.__file__).parent

# Lowest floor first: a module imports modules of lower floors, and of its own floor where this names the order.
FLOORS = [
    ["errors", "progress", "forking", "mflog", "crash_points"],
    ["new_file"],
    ["model"],
    ["mounts", "beside", "stored_json", "location", "connections", "schema", "pragmas"],
    ["sqlite_errors", "repetition", "background", "memory_pages", "text_arrays"],
    ["database_file"],
    ["database"],
    ["codecs", "chunking", "pickling", "preview", "layout", "holds", "stubs"],
    ["pickle_preview"],
    ["blob_reader"],
    ["continuation"],
    ["log_moving"],
    ["new_chunks"],
    ["chunk_stream"],
    ["small_blobs"],
    ["blobs"],
    ["artifact_rows"],
    ["tasks"],
    ["task_records", "files", "registrations", "trust"],
    ["trash"],
    ["tables"],
    ["attempt_in_progress"],
    ["storage"],
    ["content_addressed_store", "artifact_lookup", "path_storage"],
    ["task_datastore"],
    ["task_reader", "task_writer", "spin_datastore"],
    ["flow_datastore"],
    ["datastore_set", "inputs"],
    ["api"],
    ["maintenance"],
    ["archive"],
    ["paths"],
    ["remote"],
    ["cli", "testing", "metaflow"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
PURE = {
    "errors",
    "crash_points",
    "progress",
    "model",
    "mflog",
    "codecs",
    "chunking",
    "pickling",
    "text_arrays",
    "preview",
    "pickle_preview",
    "layout",
    "inputs",
    "stored_json",
}
STAND_FOR_THE_SYSTEM = {"watched_vfs", "recording", "failing_files"}
"""What SQLite asks for files in the tests: they need apsw for that, but no SQL."""
KNOWS_SQL = {
    "schema",
    "pragmas",
    "sqlite_errors",
    "repetition",
    "database",
    "database_file",
    "connections",
    "holds",
    "stubs",
    "blob_reader",
    "new_chunks",
    "chunk_stream",
    "continuation",
    "small_blobs",
    "blobs",
    "tasks",
    "task_records",
    "files",
    "registrations",
    "trust",
    "trash",
    "maintenance",
}


def modules() -> list[tuple[str, Path]]:
    """Return (room, file) of every module: the room is the top-level module or package it is in."""
    found = [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in sorted(ROOT.rglob("*.py"))]
    return [(room, path) for room, path in found if room != "__init__"]


def plug_in_modules() -> list[Path]:
    """Return the modules that Metaflow imports whenever it starts."""
    return sorted((ROOT / "metaflow" / "metaflow_extensions").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports anywhere, but for TYPE_CHECKING blocks."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms of this package that a file imports."""
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("sqlitestore.")}
    return {name for name in inside if name in FLOOR}


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_imports_go_downward(room: str, path: Path) -> None:
    """A module imports only from floors below its own."""
    wrong = {other for other in rooms_imported(path) if other != room and FLOOR[other] >= FLOOR[room]}
    assert not wrong, f"{room} (floor {FLOOR[room]}) imports {sorted(wrong)}"


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_things_are_in_their_rooms(room: str, path: Path) -> None:
    """SQL stands beside its tables, printing and the environment belong to leaves, Metaflow to nobody here."""
    imported = {name.split(".")[0] for name in imports(path)}
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    constants = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    if room not in KNOWS_SQL:
        assert "apsw" not in imported or path.stem in STAND_FOR_THE_SYSTEM
        assert not [
            text for text in constants if text.startswith(("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA "))
        ]
    assert not [text for text in constants if "COUNT(*)" in text and "``" not in text], "nobody could stop it"
    if room not in {"pragmas", "database", "maintenance"}:
        assert not [text for text in constants if text.startswith("PRAGMA ")]
    if room not in {"location", "cli", "metaflow"}:
        assert "os.environ" not in text
        assert "getenv" not in text
    if room != "cli":
        assert not {"click", "rich"} & imported
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
    if room != "metaflow" and path.name != "metaflow_storages.py":
        assert "metaflow" not in imported
    if room in PURE:
        assert not {"apsw", "os", "pathlib"} & imported


@pytest.mark.parametrize("path", plug_in_modules(), ids=lambda path: path.stem)
def test_what_metaflow_imports_at_its_start_imports_nothing_of_ours(path: Path) -> None:
    """A broken apsw must not break `import metaflow`: our modules are imported inside of functions only."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    at_once = {ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not [text for text in at_once if "sqlitestore" in text or "apsw" in text]


def test_the_package_exports_what_it_lists() -> None:
    """Every name in __all__ is there, and every error class is exported."""
    from sqlitestore import errors

    assert all(hasattr(sqlitestore, name) for name in sqlitestore.__all__)
    public = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert public <= set(sqlitestore.__all__)


def test_importing_the_package_stays_light() -> None:
    """Nothing heavy comes along with `import sqlitestore`."""
    code = "import sys, sqlitestore; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {"click", "rich", "numpy", "pandas", "metaflow", "pyfastcdc", "asyncio"} & loaded


def test_importing_the_package_compiles_no_annotations() -> None:
    """A named tuple compiles each annotation that is a text, which takes 2 ms the first time: so none is.

    That is why those modules with named tuples that come along do not import ``annotations`` from ``__future__``.
    """
    code = """if True:
        import builtins
        texts, original = [], builtins.compile

        def watched(source, *arguments, **named):
            if isinstance(source, str):  # of a module it is bytes
                texts.append(source)
            return original(source, *arguments, **named)

        builtins.compile = watched
        from sqlitestore import FlowDataStore
        print(texts)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
