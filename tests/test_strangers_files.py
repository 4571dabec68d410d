"""Named files in a stranger's file: none speaks for a run of ours, or has a pickle loaded that is not trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_store import FLOW, save_task

from sqlitestore import Damaged, FlowDataStore, RunExists, merge
from sqlitestore.blobs import payload_of
from sqlitestore.layout import UNTRUSTED
from sqlitestore.paths.reading import find
from sqlitestore.tables import tables_of

DOCUMENT = {"objects": {"x": "0" * 40, "y": "1" * 40}, "info": {"x": {"encoding": "pickle-v4"}}}
DATA = json.dumps(DOCUMENT).encode()


def strangers(path: Path, run: str, name: str, content: bytes) -> Path:
    """Make a file with a run, and with a file under a name."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, run, x=1)
        flow._storage_impl.save_file(name, payload_of(content))
    return path


@pytest.mark.parametrize(
    "name",
    [
        f"{FLOW}/1/a/1/0.data.json",
        f"{FLOW}/1/a/1/0.DONE.lock",
        f"{FLOW}/77/a/1/0.data.json",
        f"{FLOW}/data/ab/ab{'0' * 38}",
        f"mf.datatools/{FLOW}/{'0' * 40}",
        "../elsewhere",
        f"mf.cards/{FLOW}/runs/../x",
        "a\x1b[31mb",
    ],
)
def test_a_file_that_would_speak_for_something_else_is_refused(tmp_path: Path, name: str) -> None:
    """Documents of runs that are not in the file, bytes in the place of blobs, a wrong hash, ways out of a folder."""
    evil = strangers(tmp_path / "evil.db", "2", name, DATA)
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        save_task(flow, "1", x=1)
        with pytest.raises(Damaged, match=r"evil\.db"):
            merge(flow, [evil])
        assert flow._storage_impl.runs(FLOW) == ["1"]
        assert flow._storage_impl.files_below("") == []


def test_a_file_of_ours_is_not_replaced(tmp_path: Path) -> None:
    """Another one under its path is an error that names it."""
    evil = strangers(tmp_path / "evil.db", "2", "notes.txt", b"theirs")
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        flow._storage_impl.save_file("notes.txt", payload_of(b"ours"))
        with pytest.raises(RunExists, match="notes"):
            merge(flow, [evil])
        key, _, _ = flow._storage_impl.find_file("notes.txt") or ("", 0, "")
        assert dict(flow.load_data([key])) == {key: b"ours"}


def test_a_document_of_an_untrusted_run_unpickles_nothing(tmp_path: Path) -> None:
    """Metaflow gets it with other encodings, also for artifacts it says nothing of, until the run is trusted."""
    name = f"{FLOW}/2/a/1/0.data.json"
    evil = strangers(tmp_path / "evil.db", "2", name, DATA)
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        merge(flow, [evil])
        tables = tables_of(flow)
        [found] = find(tables, "", [name])
        infos = json.loads(b"".join(found.blocks()))["info"]
        assert set(infos) == {"x", "y"}
        assert all(info["encoding"].startswith(f"{UNTRUSTED}{FLOW}/2: ") for info in infos.values())
        assert found.size() == len(b"".join(found.blocks()))
        tables.trust.trust(FLOW, "2")
        [found] = find(tables, "", [name])
        assert b"".join(found.blocks()) == DATA


@pytest.mark.parametrize("document", [b"no JSON", b"[]", b'{"objects": []}', b'{"objects": {"x": 1}, "info": 5}'])
def test_what_is_no_document_is_harmless(tmp_path: Path, document: bytes) -> None:
    """Whatever stands there, nothing fails, and nothing has an encoding that loads."""
    name = f"{FLOW}/2/a/1/0.data.json"
    evil = strangers(tmp_path / "evil.db", "2", name, document)
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        merge(flow, [evil])
        [found] = find(tables_of(flow), "", [name])
        read = b"".join(found.blocks())
        assert read == document or UNTRUSTED.encode() in read
