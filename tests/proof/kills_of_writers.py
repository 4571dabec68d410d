"""Starts writers, kills them at random moments, all or some, and looks at the file; in a process of its own."""

from __future__ import annotations

import os
import random
import signal
import time

from helpers_processes import fork
from helpers_store import FLOW, assert_sound, incompressible, rows, save_task

from sqlitestore import FlowDataStore, TaskNotFound


def kill_again_and_again(path: str, kills: int, seed: int) -> dict[str, int]:
    """Kill writers at random moments, all or some of them, and check the file each time; return what was seen."""
    chance = random.Random(seed)
    seen = {"done": 0, "not done": 0, "data": 0}
    everything: list[str] = []
    for kill in range(kills):
        reading, writing = os.pipe()
        writers = [fork(_write, path, str(kill), str(number), writing) for number in range(3)]
        os.close(writing)
        first_words = os.read(reading, 6)  # kill nobody who has not begun
        time.sleep(chance.random() ** 2 * 0.5)
        for writer in writers[: chance.choice([1, 3, 3])]:
            os.kill(writer, signal.SIGKILL)
        survivors_write = chance.random() * 0.1
        time.sleep(survivors_write)
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        with os.fdopen(reading, "rb") as words:
            said = first_words + words.read()
        acknowledged = [line for line in said.decode().split("\n")[:-1] if line != "start"]
        everything += acknowledged
        assert_sound(path)
        with FlowDataStore(FLOW, ds_root=path) as flow:
            _check(flow, str(kill), set(acknowledged), seen)
            save_task(flow, "after", task=str(kill), kill=kill)
            assert len(flow.get_latest_task_datastores("after")) == kill + 1
    with FlowDataStore(FLOW, ds_root=path) as flow:
        _check_every_blob(flow, path)
        named = [word for word in everything if "/" in word]
        assert len(flow.get_latest_task_datastores(pathspecs=named)) == len(named)
    seen["acknowledged"] = len(everything)
    return seen


def _write(path: str, run: str, who: str, words: int) -> None:
    """Save tasks and data until killed; say what was acknowledged, in lines that a pipe keeps whole."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        os.write(words, b"start\n")
        for number in range(10**6):
            task = f"{who}-{number}"
            writer = flow.get_task_datastore(run, "a", task, attempt=0, mode="w")
            writer.init_task()
            writer.save_artifacts([("number", number), ("small", [number] * 100)])
            writer.save_artifacts([("large", incompressible(_size(number), number)), ("same", bytes(3_000_000))])
            writer.save_logs("task", {"stdout": b"line\n" * (number + 1)})
            writer.done()
            os.write(words, f"{run}/a/{task}\n".encode())
            [(_, key)] = flow.save_data([incompressible(100_000 + number + int(run), number + int(run))])
            os.write(words, f"{key}\n".encode())


def _size(number: int) -> int:
    return 20_000_000 if number % 5 == 2 else 200_000


def _check(flow: FlowDataStore, run: str, acknowledged: set[str], seen: dict[str, int]) -> None:
    done = {task.pathspec: task for task in flow.get_latest_task_datastores(run)}
    for task in done.values():
        number = int(task.task_id.rpartition("-")[2])
        found = task.to_dict()
        assert (found["number"], found["small"]) == (number, [number] * 100)
        assert (found["large"], found["same"]) == (incompressible(_size(number), number), bytes(3_000_000))
        assert task.load_logs(["task"], "stdout") == [("task", b"line\n" * (number + 1))]
        seen["done"] += 1
    for task in flow.get_latest_task_datastores(run, allow_not_done=True):
        if task.pathspec not in done:
            seen["not done"] += 1
            assert list(task) == []
            try:
                flow.get_task_datastore(task.run_id, task.step_name, task.task_id)
            except TaskNotFound:
                continue
            raise AssertionError(f"{task.pathspec} is not done and can be read")
    keys = [word for word in acknowledged if "/" not in word]
    for _, data in flow.load_data(keys):
        assert data == incompressible(len(data), len(data) - 100_000)
        seen["data"] += 1
    assert {word for word in acknowledged if "/" in word} <= set(done), "what was acknowledged is gone"


def _check_every_blob(flow: FlowDataStore, path: str) -> None:
    """Load all blobs, referenced or not: every one is complete."""
    keys = [key for (key,) in rows(path, "SELECT lower(hex(key)) FROM blob")]
    assert sum(1 for _ in flow.load_data(keys)) == len(keys)
