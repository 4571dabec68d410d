"""Logs in Metaflow's format: its prefixes taken off, its sources merged; compared with Metaflow's own merging."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metaflow.mflog.mflog import MISSING_TIMESTAMP, decorate, merge_logs

from sqlitestore import mflog

ID = b"3f2504e0-4f89-41d3-9a0c-0305e82c3301"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)
CORRUPT = [  # of which neither Metaflow nor we find the time
    b"",
    b"plain",
    b"[MFLOG|0|2026-11-24T12:00:00.0000",
    b"[MFLOG|0|2026-02-31T12:00:00.000000Z|task|id]the 31st of February",
    b"[MFLOG|0|yesterday, perhaps Z|task|id]no time",
    b"[MFLOG|1|2026-11-24T12:00:00.000000Z|task|id]another version",
    b" [MFLOG|0|2026-11-24T12:00:00.000000Z|task|id]indented",
    b"[mflog|0|2026-11-24T12:00:00.000000Z|task|id]small",
]
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
messages = st.one_of(
    st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")),
    st.sampled_from([b"", b"a|b]c", b"] [", b"10%\r20%\r", "caf\u00e9".encode(), b"[MFLOG|0|x]", *CORRUPT]),
)


def line(seconds, text, source=b"task"):
    """Return a line as Metaflow writes it, without its end."""
    now = (START + timedelta(seconds=seconds)).replace(tzinfo=None)
    return decorate(source, text, now=now, lineid=ID)


def texts(*logs):
    return b"".join(text for _, text in mflog.merged(logs))


def test_sources_are_merged_by_time_and_prefixes_taken_off():
    """What the scheduler saw stands between what the task wrote, as it happened."""
    runtime = line(0, b"Task is starting.", b"runtime") + b"\n" + line(9, b"Task finished.", b"runtime") + b"\n"
    task = line(3, b"step 1") + b"\n" + line(4, b"step 2") + b"\n"
    assert texts(runtime, task) == b"Task is starting.\nstep 1\nstep 2\nTask finished.\n"
    assert [time for time, _ in mflog.merged([task])] == [START + timedelta(seconds=3), START + timedelta(seconds=4)]


def test_lines_of_one_moment_stay_as_they_stood():
    """Those of the first log come first, and each log's in their order, whatever their text is."""
    first = b"".join(line(1, text) + b"\n" for text in (b"z", b"y", b"x"))
    second = b"".join(line(1, text) + b"\n" for text in (b"c", b"b", b"a"))
    assert texts(first, second) == b"z\ny\nx\nc\nb\na\n"


def test_a_source_whose_clock_went_back_is_sorted():
    """Lines of one log that are not in order of time are put into it."""
    assert texts(line(5, b"late") + b"\n" + line(1, b"early") + b"\n") == b"early\nlate\n"


def test_lines_without_prefix_stay_behind_the_line_before_them():
    """At the beginning of a log they stay before the first that has a time; none is changed."""
    broken = b"torn\n" + line(2, b"Traceback:") + b"\n  File \\\xff\n" + line(7, b"Error") + b"\n"
    other = line(1, b"begin") + b"\n" + line(4, b"meanwhile") + b"\n"
    assert texts(broken, other) == b"begin\ntorn\nTraceback:\n  File \\\xff\nmeanwhile\nError\n"


def test_a_log_without_prefixes_comes_after_those_with():
    """Nobody knows when its lines were written."""
    assert texts(b"no time\n", line(1, b"timed")) == b"timed\nno time\n"


def test_every_line_ends_with_a_newline():
    """Metaflow leaves it out at the end of many logs."""
    assert texts(line(2, b"b"), line(1, b"a")) == b"a\nb\n"
    assert texts(line(1, b"a"), b"no time") == b"a\nno time\n"


@pytest.mark.parametrize(
    "prefix",
    [
        b"[MFLOG|0|2026-11-24T12:00:00.000000Z|task|]",
        b"[MFLOG|0|2026-11-24T12:00:00.000000Z||]",
        b"[MFLOG|0|2026-11-24T12:00:00.000000Z|task]",
        b"[MFLOG|0|2026-11-24T12:00:00.000000Z]",
        b"[MFLOG|0|2026-11-24T12:00:00.0Z|task|id]",
        b"[MFLOG|0|2026-11-24T12:00:00Z|task|id]",
        b"[![MFLOG|0|2026-11-24T12:00:00.000000Z|task|id]",
        b"[MFLOG|0|2026-11-24T12:00:00.000000Z|task|2026-11-24T12:00:00.000000123+00:00]",
    ],
    ids=bytes.decode,
)
def test_a_prefix_that_misses_a_part_still_tells_the_time(prefix):
    """Source and id may be missing, the time have fewer digits; a receiver's mark and the shell's ids are known."""
    assert mflog.merged([prefix + b"a|b]c"]) == [(START, b"a|b]c\n")]
    assert mflog.is_mflog(b"first\n" + prefix)


@pytest.mark.parametrize("text", CORRUPT, ids=bytes.decode)
def test_what_is_no_prefix_stays(text):
    """A line whose time cannot be told is printed whole."""
    assert mflog.merged([text + b"\n"]) == [(None, text + b"\n")]
    assert not mflog.is_mflog(text)


def test_only_one_prefix_is_taken_off():
    """A task that prints Metaflow's logs gets what it printed."""
    assert texts(line(1, line(0, b"inner")) + b"\n") == line(0, b"inner") + b"\n"


@SETTINGS
@given(st.lists(st.lists(st.one_of(st.binary(), st.sampled_from([*CORRUPT, b"\n", b"\r\n"]))).map(b"".join)))
def test_text_without_prefixes_is_not_changed(logs):
    """Not a byte of it, and nothing raises."""
    if not any(mflog.is_mflog(log) for log in logs):
        assert texts(*logs) == b"".join(logs)


@SETTINGS
@given(
    st.lists(st.lists(st.one_of(st.just(b"[MFLOG|0|"), st.binary(max_size=5), messages, st.just(b"\n"))).map(b"".join))
)
def test_any_bytes_are_merged(logs):
    """Nothing raises; a log is Metaflow's exactly if one of its lines has a time."""
    mflog.merged(logs)
    for log in logs:
        assert mflog.is_mflog(log) == any(time for time, _ in mflog.merged([log]))


def generated(moments):
    """Return logs of up to three sources: lines with the moments given, some of them corrupt."""
    lines = st.one_of(
        st.tuples(st.just("timed"), moments, messages), st.tuples(st.just("corrupt"), st.sampled_from(CORRUPT))
    )
    return st.lists(st.lists(lines, max_size=8), max_size=3)


def written(logs):
    sources = (b"runtime", b"task", b"kernel")
    return [
        b"".join((line(each[1], each[2], sources[number]) if each[0] == "timed" else each[1]) + b"\n" for each in log)
        for number, log in enumerate(logs)
    ]


def both(blobs):
    """Return ``(time, text)`` as Metaflow merges, and as we do."""
    theirs = [
        (None if each.utc_tstamp == MISSING_TIMESTAMP else each.utc_tstamp.replace(tzinfo=UTC), each.msg.strip(b"\n"))
        for each in merge_logs(blobs)
    ]
    return theirs, [(time, text.strip(b"\n")) for time, text in mflog.merged(blobs)]


def timed(lines):
    return [each for each in lines if each[0]]


@SETTINGS
@given(generated(st.integers(0, 5)))
def test_merging_is_metaflows_where_times_differ(logs):
    """The same lines with the same times, in the same order; corrupt ones are there, elsewhere."""
    number = count()
    logs = [
        [(each[0], each[1] + next(number) / 1e6, each[2]) if len(each) == 3 else each for each in log] for log in logs
    ]
    theirs, ours = both(written(logs))
    assert timed(ours) == timed(theirs)
    assert Counter(ours) == Counter(theirs)


@SETTINGS
@given(generated(st.sampled_from([0, 1])))
def test_merging_has_metaflows_lines_where_times_are_equal(logs):
    """Metaflow sorts lines of one moment by their text, which we do not; the lines are the same."""
    theirs, ours = both(written(logs))
    assert sorted(timed(ours)) == sorted(timed(theirs))
    assert Counter(ours) == Counter(theirs)
    assert [time for time, _ in timed(ours)] == [time for time, _ in timed(theirs)]
