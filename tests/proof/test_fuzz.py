"""Fuzzing in short: what is kept of every fault, some inputs for each parser, and seeded bugs that must be found."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from fuzz_engine import CORPUS, Target, corpus_of, execute, fuzz
from proof_fuzz import TARGETS

from sqlitestore import chunking, codecs, layout, model, pickle_preview, preview
from sqlitestore.cli import units
from sqlitestore.codecs import zstd
from sqlitestore.maintenance import page_cells
from sqlitestore.maintenance.page_file import PageFile

BY_NAME = {target.name: target for target in TARGETS}
SHORT = {"chunks": 8, "journals": 40, "stores": 6, "pulls": 24, "arguments": 30, "msgpack": 40}
SEED = 1


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_parser_keeps_its_invariant(target: Target) -> None:
    """No input out of some hundred makes a parser answer wrongly, raise something else, run code, or take too much."""
    found = fuzz(target, SHORT.get(target.name, 400), SEED)
    assert len(found) > 1, f"only one thing ever happened: {found}"
    if target.name == "journals":
        assert {"log used", "journal used"} <= set(found)


KEPT = [(target, path) for target in TARGETS for path in corpus_of(target.name)]


@pytest.mark.parametrize(("target", "path"), KEPT, ids=[f"{path.parent.name}/{path.name}" for _, path in KEPT])
def test_kept_input_does_no_harm(target: Target, path: Any) -> None:
    """Each input that once found a fault is run again."""
    execute(target, path.read_bytes())


def test_corpus_is_small_and_all_of_it_is_used() -> None:
    """The corpus has less than 100 KB, and no folder that no target reads."""
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    assert {path.parent.name for path in files} <= set(BY_NAME)
    assert len(files) == len(KEPT)


def caught(name: str, amount: int, said: str) -> None:
    """Fail unless the fuzzing of a target finds something wrong, and says it."""
    with pytest.raises(AssertionError, match=said):
        fuzz(BY_NAME[name], amount, SEED)


def test_pathspec_with_an_empty_name_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser of pathspecs that takes "a//b" is found."""
    true = model.parse_full_pathspec
    monkeypatch.setattr(model, "parse_full_pathspec", lambda text: true(text.replace("//", "/")))
    caught("pathspecs", 1000, "pathspecs")


@pytest.mark.parametrize("error", [KeyError, UnicodeDecodeError])
def test_parser_that_raises_another_error_is_caught(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """A parser that lets KeyError or UnicodeDecodeError out on odd input is found."""

    def keys(document: bytes) -> list[str]:
        if error is KeyError:
            return layout_keys({b"{": document}[document[:1]])
        document.decode("ascii")
        return layout_keys(document)

    layout_keys = layout.keys_in_data_document
    monkeypatch.setattr(layout, "keys_in_data_document", keys)
    caught("documents", 2000, error.__name__)


def test_size_by_floating_point_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser of sizes that loses the last digits is found."""
    true = units.size
    monkeypatch.setattr(units, "size", lambda text: int(float(true(text))))
    caught("units", 1000, "9007199254740993")


def test_codec_that_believes_the_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that decompresses first, and compares the size then, is found by its memory."""
    true = codecs.decode

    def decode(codec: Any, stored: Any, size: Any) -> bytes:
        if codec == codecs.ZSTD:
            with suppress(zstd.ZstdError):
                zstd.decompress(stored)
        return true(codec, stored, size)

    monkeypatch.setattr(codecs, "decode", decode)
    caught("codecs", 100, "bytes of memory")


def test_unpacking_without_limits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpacker that makes room for whatever msgpack claims is found by its memory."""
    monkeypatch.setattr(preview, "_unpacked", msgpack.unpackb)
    caught("msgpack", 40, "bytes of memory")


def test_preview_that_imports_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview that finds the class that a pickle names is found by the audit hook."""
    true = pickle_preview.describe

    class Finder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            super().find_class(module, name)
            raise pickle.UnpicklingError

    def describe(head: Any, size: int) -> dict[str, Any]:
        with suppress(Exception):
            Finder(io.BytesIO(bytes(head))).load()
        return true(head, size)

    monkeypatch.setattr(pickle_preview, "describe", describe)
    caught("pickles", 100, "something ran")


def test_chunker_that_drops_a_byte_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunker that drops the first byte behind a boundary is found."""
    true = chunking.Chunker._cut

    def cut(chunker: chunking.Chunker, data: memoryview, **options: bool) -> Any:
        chunks, dropped = true(chunker, data, **options), 0
        try:
            while True:
                yield next(chunks)[dropped:]
                dropped = 1
        except StopIteration as end:
            return end.value

    monkeypatch.setattr(chunking.Chunker, "_cut", cut)
    caught("chunks", 30, "not what was written")


def test_list_of_free_blocks_without_an_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of pages that follows a list of free blocks in a circle is found by its time."""

    def free_blocks(data: bytes, block: int) -> int:
        while block:
            block = int.from_bytes(data[block : block + 2], "big")
        return 0

    monkeypatch.setattr("fuzz_engine.SECONDS", 0.5)
    monkeypatch.setattr(page_cells, "_free_blocks", free_blocks)
    caught("pages", 20_000, "takes more than")


def test_journal_that_is_believed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of journals that believes how many pages the file had is found."""
    true = PageFile._read_journal

    def read_journal(self: Any, journal: Any) -> None:
        true(self, journal)
        for number in range(1, 100_000):
            self._places.setdefault(number, (journal, 0))
        self.count = 100_000

    monkeypatch.setattr(PageFile, "_read_journal", read_journal)
    caught("journals", 60, "pages are claimed")
