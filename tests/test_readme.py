"""README.md is true: its examples run and print what it says, its commands exist, its tables are complete."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from helpers_cli import CHANGING, COMMANDS

from sqlitestore import errors

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NOTES = {
    "import": "What came is not unpickled before `sqlitestore trust`.\n",
}
MARK = "---- next example\n"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run the Python blocks in order as one program; return its folder, and what each block printed."""
    folder = tmp_path_factory.mktemp("readme")
    code = f"\nprint({MARK!r}, end='')\n".join(code for language, code in BLOCKS if language == "python")
    (folder / "example.py").write_text(code, encoding="utf-8")
    done = _run([sys.executable, "-W", "error", "example.py"], folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.split(MARK)


def test_examples_print_what_the_readme_says(examples: tuple[Path, list[str]]) -> None:
    """Each Python block prints the text block that follows it (KEY stands for 32 digits)."""
    expected = [
        text for (language, _), (following, text) in pairwise(BLOCKS) if (language, following) == ("python", "text")
    ]
    assert [re.sub(r"\b[0-9a-f]{32}\b", "KEY", printed) for printed in examples[1]] == expected
    assert len(expected) == 3


def test_command_lines_run(examples: tuple[Path, list[str]]) -> None:
    """Every command line that the README shows ends well on the file of its first example, and says something."""
    lines = [
        line
        for language, code in BLOCKS
        if language == "sh"
        for line in code.splitlines()
        if line.startswith("sqlitestore ") and "s3://" not in line  # those: test_cli_transfer
    ]
    assert {line.split()[3] for line in lines} == {*COMMANDS, *CHANGING}
    for line in lines:
        done = _run(["bash", "-c", line], examples[0])
        assert (done.returncode, done.stderr) == (0, NOTES.get(line.split()[3], "")), line
        assert done.stdout or " -o " in line, line
    assert (examples[0] / "weights.pickle").stat().st_size > 100_000


def test_metaflows_client_reads_the_first_example(examples: tuple[Path, list[str]]) -> None:
    """The README's command for Metaflow's client prints what it says, on the file that our own API made."""
    [(code, expected)] = [
        (code, text)
        for (language, code), (_, text) in pairwise(BLOCKS)
        if language == "sh" and code.startswith("python -c")
    ]
    done = _run(["bash", "-c", code], examples[0], METAFLOW_USER="reader")
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_made(tmp_path: Path, shell: str) -> None:
    """What the README says to put into a shell's start-up file prints a completion script for that shell."""
    assert f"_SQLITESTORE_COMPLETE={shell}_source sqlitestore" in TEXT
    done = _run(["sqlitestore"], tmp_path, _SQLITESTORE_COMPLETE=f"{shell}_source")
    assert done.returncode == 0, done.stderr
    assert "_sqlitestore_completion" in done.stdout


def test_errors_are_all_in_the_table() -> None:
    """The table of errors has every class with its kind and the built-in that it adds to its parent, in order."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| `(\w+)` \|", TEXT, re.MULTILINE)
    classes = [cls for cls in vars(errors).values() if inspect.isclass(cls) and cls.__module__ == errors.__name__]
    expected = [
        (cls.__name__, "".join(base.__name__ for base in cls.__bases__ if base.__module__ == "builtins"), cls.kind)
        for cls in classes
    ]
    assert rows == expected


def test_dependencies_are_all_in_the_table() -> None:
    """Each package that is installed with this one has a row that says what for and why."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [re.split(r"[><=; ]", requirement)[0] for requirement in project["dependencies"]]
    section = TEXT.partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| ([\w.]+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)) == sorted(
        [
            "package",
            *needed,
        ]
    )


def test_links_lead_somewhere() -> None:
    """Every file that the README and the changelog link to is there."""
    for document in ("README.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("command", ["quickstart", "test"])
def test_first_screen_has_the_two_commands(command: str) -> None:
    """Both commands of a newcomer stand on the first screen, and can be run."""
    assert f"scripts/{command} " in "\n".join(TEXT.splitlines()[:24])
    assert os.access(ROOT / "scripts" / command, os.X_OK)


def _run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run in ``folder``, with the commands of this test's environment first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **more}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
