"""What the members of the crowd do that write and read: each role is a loop that ends with the crowd."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from crowd_content import (
    FLOW,
    LIVE,
    PASSING,
    artifacts_of,
    check_artifacts,
    check_contiguous,
    check_data,
    check_log,
    check_task,
    live_pathspec,
    noise,
    size_of_data,
)
from crowd_member import Member
from helpers_processes import in_threads

from sqlitestore import FlowDataStore, NotFound, change_tags, tags_of

PASSING_TASKS = 3


def writer(member: Member) -> None:
    """Write tasks into the live runs, one after the other."""
    with member.open() as flow:
        number = 0
        while member.goes_on():
            member.write_task(flow, live_pathspec(member.name, number))
            number += 1


def passer(member: Member) -> None:
    """Write whole runs that others prune and restore as soon as they are there."""
    with member.open() as flow:
        number = 0
        while member.goes_on():
            run = f"{PASSING}{member.name}-{number}"
            for task in range(PASSING_TASKS):
                member.write_task(flow, f"{run}/{'end' if task == PASSING_TASKS - 1 else 'work'}/{task}")
            member.say("run", run)
            number += 1


def reader(member: Member) -> None:
    """Look up and read what others write and prune."""
    looks = [look_up_run, look_up_pathspecs, look_twice, read_acknowledged, read_a_passing_run, read_a_running_log]
    with member.open() as flow:
        while member.goes_on():
            for look in looks:
                look(member, flow)


def latest_run(member: Member) -> str:
    """Return a live run that somebody is writing, or was a moment ago."""
    heard = member.heard("task", "writer")
    return str(heard[1].split("/")[0]) if heard else f"{LIVE}0"


def look_up_run(member: Member, flow: FlowDataStore) -> None:
    """Look up a live run, and read one of its tasks."""
    run = latest_run(member)
    with member.timed("runs looked up"):
        found = flow.get_latest_task_datastores(run, allow_not_done=True)
    check_run(run, found)
    with member.timed("runs looked up"):
        done = flow.get_latest_task_datastores(run)
    if done:
        task = member.chance.choice(done)
        with member.timed("tasks read"):
            check_task(task, task.pathspec, final=False)


def check_run(run: str, found: list[Any]) -> None:
    """Fail unless all started tasks of a live run are there, of each writer up to its latest."""
    numbers: dict[str, list[int]] = {}
    for task in found:
        who, _, number = task.task_id.rpartition("-")
        assert live_pathspec(who, int(number)) == task.pathspec
        numbers.setdefault(who, []).append(int(number))
    check_contiguous(numbers, run)


def look_up_pathspecs(member: Member, flow: FlowDataStore) -> None:
    """Ask for a writer's next task first and for those after it last: in one snapshot, so there is no gap."""
    heard = member.heard("task", "writer")
    if heard is None:
        return
    who, _, number = heard[1].rpartition("/")[2].rpartition("-")
    with member.timed("pathspecs looked up"):
        there = flow.get_latest_task_datastores(
            pathspecs=[live_pathspec(who, each) for each in range(int(number), int(number) + 60)], allow_not_done=True
        )
    assert there, f"{heard[1]} was done, and is not there"
    latest = int(there[-1].pathspec.rpartition("-")[2])
    between = [f"{LIVE}0/step0/nobody-{each}" for each in range(400)]
    after = [live_pathspec(who, each) for each in range(latest + 2, latest + 20)]
    with member.timed("pathspecs looked up"):
        found = flow.get_latest_task_datastores(
            pathspecs=[live_pathspec(who, latest + 1), *between, *after], allow_not_done=True
        )
    numbers = [int(task.pathspec.rpartition("-")[2]) for task in found]
    assert numbers == list(range(latest + 1, latest + 1 + len(found))), (
        f"after {latest} of {who} only {numbers} are there"
    )


def look_twice(member: Member, flow: FlowDataStore) -> None:
    """Look up the same twice in one snapshot: nothing has happened in between, whoever writes."""
    run = latest_run(member)
    database: Any = flow._storage_impl.database  # type: ignore[attr-defined]
    with member.timed("snapshots compared"), database.read():
        once = [(task.pathspec, task.attempt) for task in flow.get_latest_task_datastores(run, allow_not_done=True)]
        threading.Event().wait(0.01)
        again = [(task.pathspec, task.attempt) for task in flow.get_latest_task_datastores(run, allow_not_done=True)]
    assert once == again, f"one snapshot of {run} changed from {once} to {again}"


def read_acknowledged(member: Member, flow: FlowDataStore) -> None:
    """Read a task of a live run, and data, that somebody was told are there."""
    if heard := member.heard("task", "writer"):
        with member.timed("tasks read"):
            check_task(flow.get_task_datastore(*heard[1].split("/")), heard[1])
    if heard := member.heard("data"):
        with member.timed("data read"):
            [(_, data)] = flow.load_data([heard[2]])
        check_data(heard[1], data)


def read_a_passing_run(member: Member, flow: FlowDataStore) -> None:
    """Read a run that may be pruned at any moment: all of it is there or nothing, and what is read is right."""
    heard = member.heard("run", "passer")
    if heard is None:
        return
    with member.timed("passing runs looked up"):
        found = flow.get_latest_task_datastores(heard[1])
    assert len(found) in {0, PASSING_TASKS}, f"of the run {heard[1]} there are {found}"
    member.count("passing runs seen", int(bool(found)))
    for task in found:
        attempt = task.attempt
        assert attempt is not None
        with member.answered_by(NotFound):
            check_artifacts(task, task.pathspec, artifacts_of(task.pathspec, attempt))
            member.count("passing tasks read")


def read_a_running_log(member: Member, flow: FlowDataStore) -> None:
    """Read the log of a task while it runs, twice: it only grows."""
    running = flow.get_latest_task_datastores(latest_run(member), allow_not_done=True)
    for task in running[-1:]:
        seen = 0
        for _ in range(2):
            with member.timed("logs read"):
                [(_, log)] = task.load_logs(["task"], "stdout")
            lines = check_log(task.pathspec, task.attempt or 0, log)
            assert lines >= seen, f"the log of {task.pathspec} has shrunk to {log!r}"
            seen = lines


def keeper(member: Member) -> None:
    """Save data, some of it what others save too, and load what they saved."""
    with member.open() as flow:
        while member.goes_on():
            identities = [f"data of {member.name} {member.rounds}", f"data of all {member.chance.randrange(20)}"]
            with member.timed("data saved"):
                saved = flow.save_data(noise(each, size_of_data(each)) for each in identities)
            for identity, (_, key) in zip(identities, saved, strict=True):
                member.say("data", identity, key)
            read_acknowledged(member, flow)


def tagger(member: Member) -> None:
    """Change tags of a run that others change too; what was added stays until it is removed."""
    with member.open() as flow:
        member.write_task(flow, live_pathspec(member.name, 0))
        run = f"{FLOW}/{LIVE}0"
        mine: set[str] = set()
        while member.goes_on():
            add = {f"{member.name} {number}" for number in member.chance.sample(range(8), 2)}
            remove = {f"{member.name} {number}" for number in member.chance.sample(range(8), 3)}
            with member.timed("tags changed"):
                change_tags(flow, run, add=add, remove=remove)
            mine = (mine - remove) | add
            member.say("tags", run, sorted(mine))
            [tags] = tags_of(flow, run)
            assert {tag for tag in tags.tags if tag.startswith(f"{member.name} ")} == mine, f"{run} has {tags}"


def opener(member: Member) -> None:
    """Open the file, look something up or write a little, and close it, all the time."""
    number = 0
    while member.goes_on():
        with member.timed("opened and closed"), member.open() as flow:
            if member.chance.random() < 0.5:
                member.write_task(flow, live_pathspec(member.name, number))
                number += 1
            else:
                look_up_run(member, flow)


def threaded(member: Member) -> None:
    """Write and read in four threads of one store, which come and go."""
    numbers = dict.fromkeys((f"{member.name}.{thread}" for thread in range(4)), 0)

    def work(flow: FlowDataStore, who: str) -> Callable[[], None]:
        def write_and_read() -> None:
            for _ in range(2):
                member.write_task(flow, live_pathspec(who, numbers[who]))
                numbers[who] += 1
            read_acknowledged(member, flow)

        return write_and_read

    with member.open() as flow:
        while member.goes_on():
            in_threads([work(flow, who) for who in numbers])
            member.count("threads", len(numbers))


def forker(member: Member) -> None:
    """Fork in the middle of work, while another thread writes: child and parent go on with the same store.

    Every other time the parent closes it before the child has done its work, and opens it again.
    """
    while member.goes_on():
        closes_first = member.rounds % 2 == 0
        with member.open() as flow:
            child = _fork_among_threads(member, flow, closes_first=closes_first)
            if not closes_first:
                member.wait_for(child)
        if closes_first:
            with member.open() as flow:
                for number in range(3):
                    member.write_task(flow, live_pathspec(f"{member.name}.{member.rounds}.again", number))
            member.wait_for(child)


def _fork_among_threads(member: Member, flow: FlowDataStore, *, closes_first: bool) -> int:
    names = [f"{member.name}.{member.rounds}.{who}" for who in ("thread", "parent", "child")]
    failed: list[BaseException] = []
    closed, closes = os.pipe()

    def write(who: str, *numbers: int) -> None:
        for number in numbers:
            member.write_task(flow, live_pathspec(who, number))

    def write_in_thread() -> None:
        try:
            write(names[0], 0, 1)
        except BaseException as error:
            failed.append(error)

    def in_child() -> None:
        os.close(closes)
        write(names[2], 0)
        if closes_first:
            os.read(closed, 1)  # nobody ever says anything: the parent closes its end
        write(names[2], 1, 2)
        read_acknowledged(member, flow)
        flow.close()

    thread = threading.Thread(target=write_in_thread)
    thread.start()
    with member.timed("forks"):
        child = member.forked(in_child)
    write(names[1], 0, 1)
    thread.join()
    if closes_first:
        flow.close()
    os.close(closes)
    os.close(closed)
    if failed:
        raise failed[0]
    return child
