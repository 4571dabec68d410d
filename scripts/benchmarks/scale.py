"""How large the workloads are: a quick run, a full one with the sizes of the bars, and a tiny one for the tests."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in bytes, and numbers. ``rounds`` alternate; of what is very slow there are ``few_rounds``."""

    name: str
    rounds: int
    few_rounds: int
    noise: int
    large_noise: int
    integers: int
    frame: int
    tasks: int
    blobs: int
    crowd_bytes: int
    crowd_tasks: int
    run_tasks: int
    """Tasks of each run in the files that are compared as they grow; ``few_runs`` and ``many_runs`` are in them."""
    few_runs: int
    many_runs: int
    small_file: int
    large_file: int
    client_tasks: int
    client_loaded: int
    processes: int = 8


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            "tiny", 1, 1, noise=MB, large_noise=2 * MB, integers=MB, frame=MB // 2, tasks=10, blobs=20, crowd_bytes=MB,
            crowd_tasks=5, run_tasks=10, few_runs=1, many_runs=3, small_file=MB, large_file=2 * MB,
            client_tasks=20, client_loaded=10, processes=2,
        ),
        Scale(
            "quick", 3, 1, noise=20 * MB, large_noise=60 * MB, integers=8 * MB, frame=8 * MB, tasks=150, blobs=300,
            crowd_bytes=4 * MB, crowd_tasks=20, run_tasks=100, few_runs=5, many_runs=50, small_file=10 * MB,
            large_file=500 * MB, client_tasks=500, client_loaded=100,
        ),
        Scale(
            "full", 5, 3, noise=100 * MB, large_noise=1000 * MB, integers=48 * MB, frame=48 * MB, tasks=10_000,
            blobs=20_000, crowd_bytes=100 * MB, crowd_tasks=1000, run_tasks=1000, few_runs=10, many_runs=200,
            small_file=10 * MB, large_file=10_000 * MB, client_tasks=10_000, client_loaded=1000,
        ),
    )
}  # fmt: skip
