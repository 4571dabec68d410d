"""A Hypothesis machine: random histories of a flow, told to Metaflow's local datastore and to ours."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

from differential_pair import (
    LOG_FORMS,
    SOURCES,
    STREAMS,
    KeyPairs,
    Pair,
    Raised,
    agree,
    compare_artifacts,
    compare_readers,
    compare_records,
    log_for,
    open_pair,
    outcome,
    where,
)
from differential_values import UNPICKLABLE, artifacts, json_values, made
from differential_values import blobs as blob_values
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from sqlitestore import AttemptDone

RUNS = ("1", "lauf 2")
STEPS = ("start", "größe")
TASKS = ("1", "t-2")
ATTEMPTS = 4
NAMES = ("x", "y", "_private", "name", "データ", "a b.c")
METADATA_NAMES = ("m", "n.json", "0.m", "1.n.json", "00.x", "ü ü")

addresses = st.tuples(st.sampled_from(RUNS), st.sampled_from(STEPS), st.sampled_from(TASKS))
attempts = st.integers(0, ATTEMPTS - 1)
writers = Bundle("writers")
_numbers = itertools.count()


class Writers:
    """A pair of writers, and what the machine knows of them."""

    def __init__(self, pair: Pair, address: tuple[str, str, str], attempt: int) -> None:
        self.pair, self.address, self.attempt = pair, address, attempt
        self.place = (address, attempt)
        self.finished = False


class Flow:
    """A flow-like object, as ``persist`` takes it."""

    _EPHEMERAL = frozenset({"_EPHEMERAL", "_datastore", "passing"})

    def __init__(self, datastore: Any, attributes: dict[str, Any]) -> None:
        self._datastore = datastore
        self.passing = "not an artifact"
        for name, value in attributes.items():
            setattr(self, name, value)

    @property
    def computed(self) -> int:
        """Not an artifact."""
        return 1

    @staticmethod
    def function() -> int:
        """Not an artifact."""
        return 2

    def method(self) -> int:
        """Not an artifact."""
        return 3


class History(RuleBasedStateMachine):
    """Every rule does the same to both and compares the answers; at the end everything is compared."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.flows = open_pair(folder, f"Flow{next(_numbers)}")  # one root, so that flows must not show in each other
        self.keys, self.data_keys = KeyPairs(), KeyPairs()
        self.done: set[tuple[Any, int]] = set()
        self.started: defaultdict[Any, set[int]] = defaultdict(set)
        self.touched: set[tuple[Any, int]] = set()
        self.saved_data: list[Pair] = []

    def readers(self, address: Any, **options: Any) -> Pair:
        """Return what ``get_task_datastore`` gives, or two Raised."""
        return agree(lambda flow: flow.get_task_datastore(*address, **options), self.flows, where, f"reader {options}")

    def has_gap(self, address: Any) -> bool:
        """Return whether Metaflow's reader overlooks attempts; see test_differences.py."""
        numbers = sorted(self.started[address])
        return bool(numbers) and numbers != list(range(numbers[0], numbers[-1] + 1))

    def may_write(self, writer: Writers) -> bool:
        """Return whether both stores take what ``writer`` writes; check that ours refuses where it must."""
        if writer.place in self.done and not writer.finished:
            for call in (
                lambda ds: ds.init_task(),
                lambda ds: ds.save_artifacts([("x", 1)]),
                lambda ds: ds.done(),
            ):
                refused = outcome(call, writer.pair.ours)
                assert isinstance(refused, Raised)
                assert isinstance(refused.error, AttemptDone)
            return False
        return True

    # Writing

    @rule(target=writers, address=addresses, attempt=attempts, persist=st.sampled_from([True, True, False]))
    def open_writer(self, address: Any, attempt: int, persist: bool) -> Writers:
        """Open a writer of an attempt, whether or not there are others."""
        self.touched.add((address, attempt))
        pair = agree(
            lambda flow: flow.get_task_datastore(*address, attempt=attempt, mode="w", persist=persist),
            self.flows,
            where,
        )
        return Writers(pair, address, attempt)

    @rule(target=writers, address=addresses, attempt=attempts, recipe=artifacts, init=st.booleans(), done=st.booleans())
    def write_a_task(self, address: Any, attempt: int, recipe: Any, init: bool, done: bool) -> Writers:
        """Do the usual sequence; the attempt may not be marked as started, and may stay unfinished."""
        writer = self.open_writer(address, attempt, persist=True)
        if init:
            self.init_task(writer)
        self.save_artifacts(writer, [("x", recipe), ("name", recipe)])
        if done:
            self.finish(writer)
        return writer

    @rule(writer=writers)
    def init_task(self, writer: Writers) -> None:
        """``init_task``, also again."""
        if self.may_write(writer):
            answers = agree(lambda ds: ds.init_task(), writer.pair)
            if not isinstance(answers.ours, Raised):
                self.started[writer.address].add(writer.attempt)

    @rule(writer=writers, pairs=st.lists(st.tuples(st.sampled_from(NAMES), artifacts), max_size=4))
    def save_artifacts(self, writer: Writers, pairs: Any) -> None:
        """Artifacts, some under names that were used before."""
        if self.may_write(writer):
            agree(lambda ds: ds.save_artifacts((name, made(recipe)) for name, recipe in pairs), writer.pair)

    @rule(writer=writers, name=st.sampled_from(NAMES), word=st.sampled_from(list(UNPICKLABLE)))
    def save_unpicklable(self, writer: Writers, name: str, word: str) -> None:
        """Save an artifact that cannot be saved: it changes nothing."""
        if self.may_write(writer) and name not in writer.pair.theirs:  # Metaflow forgets the old one's description
            agree(lambda ds: ds.save_artifacts([(name, UNPICKLABLE[word]())]), writer.pair)
            writer.pair.theirs._info.pop(name, None)

    @rule(
        writer=writers,
        values=st.dictionaries(st.sampled_from(METADATA_NAMES), json_values, max_size=3),
        overwrite=st.booleans(),
        add_attempt=st.booleans(),
        anyway=st.booleans(),
    )
    def save_metadata(self, writer: Writers, values: Any, overwrite: bool, add_attempt: bool, anyway: bool) -> None:
        """Metadata, also of an attempt that is done."""
        method = "_dangerous_save_metadata_post_done" if anyway else "save_metadata"
        agree(lambda ds: getattr(ds, method)(values, overwrite, add_attempt), writer.pair)

    @rule(
        writer=writers,
        source=st.sampled_from(SOURCES),
        logs=st.dictionaries(st.sampled_from(STREAMS), st.tuples(st.sampled_from(LOG_FORMS), st.text(max_size=9))),
        repeat=st.sampled_from([1, 3, 30_000]),
    )
    def save_logs(self, writer: Writers, source: str, logs: Any, repeat: int) -> None:
        """Save logs that replace or continue earlier ones, in every form."""
        agree(
            lambda ds: ds.save_logs(
                source,
                {
                    stream: log_for(ds, form, (text * repeat).encode(), self.folder)
                    for stream, (form, text) in logs.items()
                },
            ),
            writer.pair,
        )

    @rule(writer=writers, address=addresses, attempt=attempts, names=st.lists(st.sampled_from([*NAMES, "none"])))
    def pass_down(self, writer: Writers, address: Any, attempt: int, names: Any) -> None:
        """Pass down some of a done task's artifacts."""
        if (address, attempt) in self.done and not self.has_gap(address):
            origin = self.readers(address, attempt=attempt)
            agree(lambda ds: ds.passdown_partial(_side(origin, ds), iter(names)), writer.pair)

    @rule(writer=writers, address=addresses, attempt=attempts)
    def clone(self, writer: Writers, address: Any, attempt: int) -> None:
        """Take all of a done task's artifacts in the place of the writer's own."""
        if (address, attempt) in self.done and not self.has_gap(address):
            origin = self.readers(address, attempt=attempt)
            agree(lambda ds: ds.clone(_side(origin, ds)), writer.pair)

    @rule(
        writer=writers,
        attributes=st.dictionaries(st.sampled_from([*NAMES, "__dunder"]), artifacts, max_size=4),
        address=addresses,
        attempt=attempts,
    )
    def persist(self, writer: Writers, attributes: Any, address: Any, attempt: int) -> None:
        """Persist what a flow object has, over what its own datastore holds."""
        if not self.may_write(writer):
            return
        origin = Pair(None, None)
        if (address, attempt) in self.done and not self.has_gap(address):
            origin = self.readers(address, attempt=attempt)

        def save(datastore: Any) -> Any:
            flow = Flow(_side(origin, datastore), {name: made(recipe) for name, recipe in attributes.items()})
            datastore.persist(flow)
            return sorted(vars(flow))

        agree(save, writer.pair)

    @rule(writer=writers, names=st.lists(st.sampled_from(NAMES)))
    def load_while_writing(self, writer: Writers, names: Any) -> None:
        """Let a writer read what it saved or was passed down."""
        agree(lambda ds: sorted(ds.ds_metadata["objects"]), writer.pair)
        for name in names:
            agree(lambda ds, name=name: (name in ds, ds.get(name, "none"), ds[name]), writer.pair)

    @rule(writer=writers)
    def finish(self, writer: Writers) -> None:
        """``done``, also again, also without ``init_task``."""
        if self.may_write(writer):
            answers = agree(lambda ds: ds.done(), writer.pair)
            if not isinstance(answers.ours, Raised):
                writer.finished = True
                self.done.add(writer.place)

    @rule(writer=consumes(writers))
    def forget_writer(self, writer: Writers) -> None:
        """Look at a writer for the last time."""
        compare_artifacts(writer.pair, self.keys)
        compare_records(writer.pair, METADATA_NAMES)

    # Scrubbing

    @rule(
        address=addresses,
        attempt=st.none() | attempts,
        sources=st.lists(st.sampled_from([*SOURCES, "none"])),
        stream=st.sampled_from(STREAMS),
        override=st.none() | attempts,
        allow=st.booleans(),
    )
    def scrub(self, address: Any, attempt: int | None, sources: Any, stream: str, override: Any, allow: bool) -> None:
        """Redact logs."""
        scrubbers = self.readers(address, attempt=attempt, mode="d", allow_not_done=allow)
        if not isinstance(scrubbers.ours, Raised):
            agree(lambda ds: ds.scrub_logs(sources, stream, attempt_override=override), scrubbers)
            compare_records(scrubbers, METADATA_NAMES)

    # Reading

    @rule(address=addresses, attempt=st.none() | attempts, allow=st.booleans())
    def read_one(self, address: Any, attempt: int | None, allow: bool) -> None:
        """One task's datastore, however it is asked for."""
        if not self.has_gap(address):
            readers = self.readers(address, attempt=attempt, allow_not_done=allow)
            if not isinstance(readers.ours, Raised):
                compare_readers(readers, self.keys, METADATA_NAMES)
                if hasattr(readers.theirs, "_objects"):
                    self.read_by_description(address, attempt, readers)

    def read_by_description(self, address: Any, attempt: int | None, readers: Pair) -> None:
        """Read what ``ds_metadata`` describes, without a look-up."""
        again = agree(
            lambda flow: flow.get_task_datastore(
                *address,
                attempt,
                data_metadata=(readers.theirs if flow is self.flows.theirs else readers.ours).ds_metadata,
            ),
            self.flows,
            where,
        )
        compare_artifacts(again, self.keys)

    @rule(
        run=st.sampled_from([*RUNS, "none"]),
        steps=st.none() | st.lists(st.sampled_from([*STEPS, "none"]), max_size=3),
        allow=st.booleans(),
        attempt=st.none() | attempts,
        prior=st.booleans(),
    )
    def find_run(self, run: str, steps: Any, allow: bool, attempt: Any, prior: bool) -> None:
        """Find the tasks of a run; their order Metaflow leaves to chance."""
        found = agree(
            lambda flow: flow.get_task_datastores(
                run, steps, allow_not_done=allow, attempt=attempt, include_prior=prior
            ),
            self.flows,
            lambda found: sorted(map(where, found)),
            "get_task_datastores of a run",
        )
        if attempt is None and not prior:
            latest = self.flows.ours.get_latest_task_datastores(run, steps, allow_not_done=allow)
            assert [where(ds) for ds in latest] == [where(ds) for ds in found.ours]
        self._look_at(found)

    @rule(
        asked=st.lists(st.tuples(addresses, st.sampled_from(["", "", "/"])), min_size=1, max_size=6),
        allow=st.booleans(),
        attempt=st.none() | attempts,
        prior=st.booleans(),
        mode=st.sampled_from(["r", "r", "w", "d"]),
    )
    def find_pathspecs(self, asked: Any, allow: bool, attempt: Any, prior: bool, mode: str) -> None:
        """Find the tasks of some pathspecs, as asked: where Metaflow defines an order, in that one."""
        pathspecs = ["/".join(address) + slash for address, slash in asked]
        found = agree(
            lambda flow: flow.get_task_datastores(
                pathspecs=pathspecs, allow_not_done=allow, attempt=attempt, include_prior=prior, mode=mode
            ),
            self.flows,
            lambda found: sorted(map(where, found)),
            "get_task_datastores of pathspecs",
        )
        if isinstance(found.ours, Raised):
            return
        tasks = [ds.pathspec for ds in found.ours]
        last = {"/".join(address): position for position, (address, _) in enumerate(asked)}
        assert tasks == sorted(tasks, key=last.__getitem__)
        if len({address[1:] for address, _ in asked}) == len(last):  # else Metaflow mixes the runs up
            assert tasks == [ds.pathspec for ds in found.theirs]
        if mode == "r":
            self._look_at(found)

    def _look_at(self, found: Pair) -> None:
        for theirs in found.theirs[:2]:
            [ours] = [each for each in found.ours if where(each) == where(theirs)]
            if hasattr(theirs, "_objects"):
                agree(lambda ds: (sorted(ds), ds.get("x"), ds.is_none("x")), Pair(theirs, ours), what="found task")

    # Data

    @rule(blobs=st.lists(blob_values, max_size=5))
    def save_data(self, blobs: Any) -> None:
        """Bytes, some of them twice, some saved before."""
        saved = agree(lambda flow: flow.save_data(iter(blobs), len_hint=len(blobs)), self.flows, len, "save_data")
        for theirs, ours, blob in zip(*saved, blobs, strict=True):
            self.data_keys.check(theirs[1], ours[1])
            for flow, (uri, key) in zip(self.flows, (theirs, ours), strict=True):
                assert uri == f"{flow.datastore_root}/{flow.flow_name}/data/{key[:2]}/{key}"
                assert list(flow.load_data([key], force_raw=True)) == [(key, blob)]
        self.saved_data += [Pair(theirs[1], ours[1]) for theirs, ours in zip(*saved, strict=True)]

    @precondition(lambda self: self.saved_data)
    @rule(data=st.data())
    def load_data(self, data: Any) -> None:
        """Keys in any order, some twice."""
        keys = data.draw(st.lists(st.sampled_from(self.saved_data), max_size=5))
        blobs = agree(
            lambda flow: [blob for _, blob in flow.load_data(_side(key, flow) for key in keys)], self.flows, what="data"
        )
        assert len(blobs.ours) == len(keys)

    @invariant()
    def done_tasks_are_found(self) -> None:
        """Both list the same tasks as done, always."""
        for run in RUNS:
            agree(
                lambda flow, run=run: flow.get_task_datastores(run), self.flows, lambda all_: sorted(map(where, all_))
            )

    def teardown(self) -> None:
        """Compare everything that was ever touched."""
        try:
            for address, attempt in sorted(self.touched):
                self.read_one(address, attempt, allow=False)
                self.read_one(address, attempt, allow=True)
                self.read_one(address, None, allow=True)
        finally:
            self.flows.ours.close()


def _side(pair: Pair, like: Any) -> Any:
    """Return the member of ``pair`` that belongs to the same package as ``like``."""
    return pair.ours if type(like).__module__.startswith("sqlitestore") else pair.theirs
