"""What is measured: groups of steps that share a folder, in order; what one step writes the next reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import crowd, growth, metaflow_runs, startup, workloads
from benchmarks.peers import JOURNAL, METAFLOW, OURS, PEERS, PLAIN
from benchmarks.workloads import Call, Costs


@dataclass(frozen=True, slots=True)
class Step:
    """One function for each store that has the method ``needs``; each of ``only``, where they are given."""

    name: str
    function: Callable[[Call], Costs]
    needs: str = "save_task"
    only: tuple[str, ...] = ()

    def can(self, peer: str) -> bool:
        return (not self.only or peer in self.only) and (peer not in PEERS or hasattr(PEERS[peer], self.needs))


@dataclass(frozen=True, slots=True)
class Group:
    """Steps in one folder for each store; the folder is new in each round unless ``prepare`` fills it before all."""

    name: str
    peers: tuple[str, ...]
    steps: tuple[Step, ...]
    prepare: Callable[[Call], Any] | None = None
    few_rounds: bool = False
    only_full: bool = False
    """Too slow for a quick run, unless it is named."""


ALL = tuple(PEERS)
STORES = tuple(peer for peer in PEERS if peer not in {JOURNAL, PLAIN})
SAVERS = tuple(peer for peer in PEERS if peer != JOURNAL)


def _object(kind: str, peers: tuple[str, ...], *, again: bool) -> Group:
    """Return the steps of one large artifact; ``again`` also saves it a second time, changed and longer."""
    steps = [
        Step("save", partial(workloads.save_object, kind=kind)),
        Step("load", partial(workloads.load_object, kind=kind), only=tuple(peer for peer in peers if peer != JOURNAL)),
    ]
    if again:
        steps += [
            Step(task, partial(workloads.save_object, kind=kind, task=task), only=STORES)
            for task in ("again", "changed", "appended")
        ]
    return Group(kind, peers, tuple(steps))


GROUPS = (
    _object("noise", ALL, again=True),
    _object("large noise", ALL, again=False),
    _object("integers", STORES, again=True),
    _object("frame", STORES, again=False),
    Group(
        "tasks",
        STORES,
        (
            Step("save", workloads.save_tasks),
            Step("by run", partial(workloads.look_up, by="run")),
            Step("by pathspecs", partial(workloads.look_up, by="pathspecs")),
            Step("load", workloads.load_each),
        ),
    ),
    Group(
        "data",
        STORES,
        (Step("save", workloads.save_data, needs="save_data"), Step("load", workloads.load_data, needs="load_data")),
    ),
    Group("crowd of arrays", STORES, (Step("save", partial(crowd.crowd, kind="arrays")),), few_rounds=True),
    Group("crowd of tasks", STORES, (Step("save", partial(crowd.crowd, kind="tasks")),), few_rounds=True),
    Group(
        "many tasks",
        (growth.SMALL, OURS),
        (Step("ask", growth.ask_many_tasks),),
        prepare=growth.fill_with_tasks,
    ),
    Group(
        "many bytes",
        (growth.SMALL, OURS),
        (Step("ask", growth.ask_many_bytes),),
        prepare=growth.fill_with_bytes,
    ),
    Group("client", (OURS, METAFLOW), (Step("ask", metaflow_runs.ask_client),), prepare=metaflow_runs.fill),
    Group("flights", (OURS, METAFLOW), (Step("run", metaflow_runs.run_flights),), few_rounds=True, only_full=True),
    Group("startup", (OURS,), (Step("start", startup.start),)),
)
NAMES = tuple(group.name.replace(" ", "-") for group in GROUPS)
