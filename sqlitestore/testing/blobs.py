"""The conformance tests of blobs: bytes in, keys out, and back."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from pickle import PickleBuffer
from threading import Event, Thread

import pytest

from sqlitestore.blobs import Payload
from sqlitestore.errors import BlobNotFound, InvalidKey
from sqlitestore.model import check_key
from sqlitestore.pickling import WriteFile
from sqlitestore.storage import DataStoreStorage
from sqlitestore.testing.base import FLOW, LARGE, NO_BLOB, Opener, StorageTests, get, noise, payload, put, together


class BlobConformance(StorageTests):
    """Tests of ``put_blobs``, ``open_blob``, ``load_blobs`` and ``has_blobs``."""

    SIZES = (0, 1, 255, 65_536, 65_537, 1_000_000, LARGE)

    @pytest.mark.parametrize("size", SIZES)
    def test_blob_comes_back(self, storage: DataStoreStorage, size: int) -> None:
        """A blob of any size is read back as it was, with its size, under a well-formed key."""
        data = noise(size)
        [stored] = storage.put_blobs(FLOW, [payload(data)])
        assert stored.size == size
        assert check_key(stored.key) == stored.key
        assert list(storage.load_blobs(FLOW, [stored.key])) == [(stored.key, data)]

    def test_empty_blobs_are_blobs(self, storage: DataStoreStorage) -> None:
        """A payload that writes nothing, or nothing but an empty part, makes the same empty blob."""
        nothing, empty = storage.put_blobs(FLOW, [payload(), payload(b"", b"")])
        assert nothing == empty
        assert nothing.size == 0
        with storage.open_blob(FLOW, nothing.key) as file:
            assert file.read() == b""
            assert file.readline() == b""
            assert file.readinto(bytearray(3)) == 0

    def test_results_come_in_order_with_duplicates(self, storage: DataStoreStorage) -> None:
        """Keys are returned in the order of the payloads, one for each, however often a blob is among them."""
        large = noise(LARGE)
        keys = put(storage, b"a", large, b"b", b"a", large)
        assert keys[0] == keys[3]
        assert keys[1] == keys[4]
        assert len(set(keys)) == 3
        asked = [keys[2], keys[1], keys[0], keys[0], keys[1]]
        assert list(storage.load_blobs(FLOW, asked)) == list(zip(asked, [b"b", large, b"a", b"a", large], strict=True))

    def test_no_blobs_are_no_error(self, storage: DataStoreStorage) -> None:
        """Storing, loading and asking for none gives none."""
        assert storage.put_blobs(FLOW, []) == []
        assert list(storage.load_blobs(FLOW, [])) == []
        assert storage.has_blobs(FLOW, []) == []

    @pytest.mark.parametrize("size", SIZES)
    def test_storing_again_gives_the_same_key(self, storage: DataStoreStorage, size: int) -> None:
        """The key depends on the bytes alone, not on how they were cut into parts, nor on when they came."""
        data = noise(size, seed=1)
        [first] = put(storage, data)
        [again] = put(storage, data)
        pieces = [memoryview(data)[start : start + 10_007] for start in range(0, size, 10_007)]
        [in_pieces] = storage.put_blobs(FLOW, [payload(*pieces)])
        assert first == again == in_pieces.key
        assert get(storage, first) == [data]

    @pytest.mark.parametrize("count", [3, 100_000])
    def test_buffers_of_every_kind_are_taken(self, storage: DataStoreStorage, count: int) -> None:
        """A payload may write bytes, bytearrays, views of any items, and pickle's buffers; each write says its size."""
        sizes: list[int] = []
        numbers = array("d", range(count))
        parts = (b"x" * count, bytearray(count), memoryview(numbers), PickleBuffer(numbers))

        def write_to(file: WriteFile) -> None:
            sizes[:] = [file.write(part) for part in parts]

        [stored] = storage.put_blobs(FLOW, [write_to])
        assert sizes == [count, count, 8 * count, 8 * count]
        assert get(storage, stored.key) == [b"x" * count + bytes(count) + 2 * numbers.tobytes()]

    @pytest.mark.parametrize("size", [100, 70_000, 300_000, 2_000_000])
    def test_buffer_may_change_after_write(self, storage: DataStoreStorage, size: int) -> None:
        """A payload may use one buffer for all its writes: what counts is what it held during each."""

        def write_to(file: WriteFile) -> None:
            buffer = bytearray(size)
            for seed in range(5):
                buffer[:] = noise(size, seed)
                file.write(buffer)
            buffer[:] = bytes(size)

        [stored] = storage.put_blobs(FLOW, [write_to])
        assert get(storage, stored.key) == [b"".join(noise(size, seed) for seed in range(5))]

    def test_missing_key_is_named(self, storage: DataStoreStorage) -> None:
        """A key without blob raises BlobNotFound that names it, after the blobs asked for before it."""
        [key] = put(storage, b"there")
        found = storage.load_blobs(FLOW, [key, NO_BLOB])
        assert next(found) == (key, b"there")
        with pytest.raises(BlobNotFound, match=NO_BLOB):
            next(found)
        with pytest.raises(BlobNotFound, match=NO_BLOB), storage.open_blob(FLOW, NO_BLOB):
            pytest.fail("a blob that is not there was opened")

    def test_small_blobs_are_whole_or_left_out(self, storage: DataStoreStorage) -> None:
        """Asked for small blobs, a storage gives some of them or none, never larger ones or others; none is missing."""
        data = [b"", b"small", noise(1000), noise(1001), noise(LARGE)]
        keys = put(storage, *data)
        found = storage.load_small_blobs(FLOW, [NO_BLOB, *keys, keys[1]], 1000)
        assert found.items() <= dict(zip(keys[:3], data[:3], strict=True)).items()

    def test_has_blobs_answers_for_each_key(self, storage: DataStoreStorage) -> None:
        """Each key gets its own answer, in order, duplicates included."""
        small, large = put(storage, b"small", noise(LARGE))
        asked = [NO_BLOB, large, small, NO_BLOB, small]
        assert storage.has_blobs(FLOW, asked) == [False, True, True, False, True]

    @pytest.mark.parametrize("size", [0, 10, LARGE])
    def test_keys_given_are_kept(self, storage: DataStoreStorage, size: int) -> None:
        """A blob asked to be kept under its SHA-1, as Metaflow's are, is found under that."""
        self.need("sha1")
        data = noise(size)
        key = hashlib.sha1(data).hexdigest()  # noqa: S324 - Metaflow's keys
        assert storage.put_blobs(FLOW, [payload(data)], keys=[key]) == [(key, size)]
        assert get(storage, key) == [data]
        with storage.open_blob(FLOW, key) as file:
            assert file.read() == data

    @pytest.mark.parametrize("size", [0, 10, LARGE])
    def test_wrong_key_is_refused(self, storage: DataStoreStorage, size: int) -> None:
        """A key that the bytes do not have raises InvalidKey, and nothing is found under it."""
        self.need("sha1")
        wrong = hashlib.sha1(b"something else").hexdigest()  # noqa: S324
        with pytest.raises(InvalidKey, match=wrong):
            storage.put_blobs(FLOW, [payload(noise(size))], keys=[wrong])
        assert storage.has_blobs(FLOW, [wrong]) == [False]

    @pytest.mark.parametrize("size", [10, LARGE])
    def test_error_of_the_iterable_passes_through(self, storage: DataStoreStorage, size: int) -> None:
        """What the iterable raises is what the caller sees, and the blobs can be stored afterwards."""

        def payloads() -> Iterator[Payload]:
            yield payload(noise(size))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            storage.put_blobs(FLOW, payloads(), keep=True)
        [key] = put(storage, noise(size))
        assert get(storage, key) == [noise(size)]

    @pytest.mark.parametrize("size", [10, 20 * 2**20])
    def test_error_of_a_payload_leaves_nothing_torn(self, storage: DataStoreStorage, size: int) -> None:
        """What a payload raises half-way is what the caller sees; the whole can be stored afterwards."""
        data = noise(size)

        def half(file: WriteFile) -> None:
            file.write(data[: size // 2])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            storage.put_blobs(FLOW, [payload(b"before"), half])
        [key] = put(storage, data)
        assert get(storage, key) == [data]

    def test_iterable_may_use_the_storage(self, storage: DataStoreStorage) -> None:
        """The iterable and the payloads may run any code, also code that reads and writes this storage."""

        def payloads() -> Iterator[Payload]:
            [key] = put(storage, b"before")
            for data in get(storage, key):
                yield payload(data, b" and after")
            yield lambda file: file.write(b"".join(get(storage, *put(storage, noise(LARGE)))))

        first, second = storage.put_blobs(FLOW, payloads())
        assert get(storage, first.key, second.key) == [b"before and after", noise(LARGE)]

    @pytest.mark.parametrize("size", [1000, LARGE])
    def test_blob_is_read_in_steps(self, storage: DataStoreStorage, size: int) -> None:
        """``read(n)`` and ``readinto`` give the bytes in order, fewer than asked only at the end."""
        data = noise(size)
        [key] = put(storage, data)
        read, step = bytearray(), size // 7
        with storage.open_blob(FLOW, key) as file:
            assert file.read(0) == b""
            while True:
                part = file.read(step)
                buffer = bytearray(step + 1)
                filled = file.readinto(memoryview(buffer))
                read += part + buffer[:filled]
                if len(part) < step or filled < step + 1:
                    break
            assert file.read(1) == b""
            assert file.readinto(bytearray(1)) == 0
        assert bytes(read) == data

    def test_rest_of_a_blob_is_read_at_once(self, storage: DataStoreStorage) -> None:
        """``read()`` gives all that is left."""
        data = noise(LARGE)
        [key] = put(storage, data)
        with storage.open_blob(FLOW, key) as file:
            assert file.read(123_456) == data[:123_456]
            assert file.read() == data[123_456:]
            assert file.read() == b""

    def test_lines_are_read(self, storage: DataStoreStorage) -> None:
        """``readline`` gives bytes up to and with a newline, no more than asked, whatever pieces the blob is in."""
        filler = noise(2**20).replace(b"\n", b"-")
        data = b"first\n\n" + filler[:3000] + b"\n" + filler + b"\nlast"
        [key] = put(storage, data)
        with storage.open_blob(FLOW, key) as file:
            assert [file.readline() for _ in range(3)] == [b"first\n", b"\n", filler[:3000] + b"\n"]
            assert file.readline(10) == filler[:10]
            assert file.read(2**20 - 10) == filler[10:]
            assert [file.readline(), file.readline(2), file.readline(), file.readline()] == [b"\n", b"la", b"st", b""]

    def test_buffer_of_items_is_filled(self, storage: DataStoreStorage) -> None:
        """``readinto`` counts bytes, also where the buffer's items are larger."""
        numbers = array("d", range(100_000))
        [key] = put(storage, numbers.tobytes())
        target = array("d", bytes(numbers.itemsize * len(numbers)))
        with storage.open_blob(FLOW, key) as file:
            assert file.readinto(memoryview(target)) == 800_000
        assert target == numbers

    def test_reading_may_stop_early(self, storage: DataStoreStorage) -> None:
        """Leaving a blob half-read, normally or by an error of the caller's, is fine."""
        [key] = put(storage, noise(LARGE))
        with storage.open_blob(FLOW, key) as file:
            assert file.read(5) == noise(LARGE)[:5]
        with pytest.raises(ZeroDivisionError), storage.open_blob(FLOW, key):
            raise ZeroDivisionError

    def test_blobs_survive_closing(self, storage: DataStoreStorage, opened: Opener) -> None:
        """What was stored is there after closing and opening again."""
        self.need("reopen")
        keys = [blob.key for blob in storage.put_blobs(FLOW, [payload(b"small"), payload(noise(LARGE))], keep=True)]
        assert get(opened.reopen(), *keys) == [b"small", noise(LARGE)]

    def test_blobs_are_seen_by_a_second_handle(self, storage: DataStoreStorage, opened: Opener) -> None:
        """What ``put_blobs`` has returned can be read elsewhere at once, and has the same key there."""
        self.need("second handle")
        second = opened()
        keys = put(storage, b"small", noise(LARGE))
        assert get(second, *keys) == [b"small", noise(LARGE)]
        assert put(second, b"small", noise(LARGE)) == keys

    def test_failing_writer_takes_nothing_from_another(self, storage: DataStoreStorage) -> None:
        """A blob that shares bytes with one in the making stays whole when the other fails and its place is reused."""
        self.need("threads")
        shared, begun, go_on = noise(20 * 2**20), Event(), Event()

        def failing(file: WriteFile) -> None:
            file.write(shared)
            begun.set()
            go_on.wait()
            raise ZeroDivisionError

        def work() -> None:
            with pytest.raises(ZeroDivisionError):
                storage.put_blobs(FLOW, [failing])

        thread = Thread(target=work)
        thread.start()
        begun.wait()

        def sharing(file: WriteFile) -> None:
            file.write(shared[: 10 * 2**20])
            go_on.set()
            thread.join()
            put(storage, noise(20 * 2**20, seed=1))
            file.write(b"the end")

        [stored] = storage.put_blobs(FLOW, [sharing])
        assert get(storage, stored.key) == [shared[: 10 * 2**20] + b"the end"]

    @pytest.mark.parametrize("size", [100, 3 * 2**20])
    def test_threads_store_equal_and_own_blobs(self, storage: DataStoreStorage, size: int) -> None:
        """Threads that store the same blob at the same time get the same key, and lose nothing of their own."""
        self.need("threads")

        def work(index: int) -> list[bytes]:
            keys = put(storage, noise(size), noise(size, seed=index + 1))
            return get(storage, *keys)

        assert together(4, work) == [[noise(size), noise(size, seed=index + 1)] for index in range(4)]
