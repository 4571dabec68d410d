"""Measures sqlitestore against Metaflow's local datastore and what a user would write instead.

Prints one table: each workload, our figure, the ratio to Metaflow's local datastore, the bar that it is to reach,
disk and peak memory of ours, and the ratios to the other stores. Ratios above 1 mean that we need less; they are
medians over rounds in which the stores take turns. scripts/BENCHMARKS.md says what each workload does, and how durable
each store is. A quick run takes less than three minutes; --full has the sizes of the bars, and the run of the flights.
"""

from __future__ import annotations

import argparse
import compileall
import datetime as dt
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    import apsw

    packages = ("sqlitestore", "metaflow", "numpy", "pandas", "joblib", "diskcache")
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{package: version(package) for package in packages},
    }


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    from benchmarks.groups import NAMES
    from benchmarks.scale import SCALES

    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_const", const="full", dest="scale", default="quick", help="the sizes of the bars"
    )
    parser.add_argument("--scale", choices=SCALES, default="quick", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--without", nargs="+", choices=NAMES, metavar="NAME", default=[], help="leave these out")
    parser.add_argument("--rounds", type=int, help="alternating rounds (default: 3, 5 with --full, fewer if very slow)")
    parser.add_argument("--folder", default=".", help="where to measure: the disk counts (default: here)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--svg", type=Path, help="also draw the ratios to this file")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    from benchmarks.chart import svg_of
    from benchmarks.groups import GROUPS, NAMES
    from benchmarks.measure import Session
    from benchmarks.peers import PEERS
    from benchmarks.progress import TerminalProgress
    from benchmarks.report import line_of, text_of
    from benchmarks.rows import rows
    from benchmarks.scale import SCALES
    from benchmarks.startup import imported

    scale = SCALES[arguments.scale]
    by_name = dict(zip(NAMES, GROUPS, strict=True))
    usual = [name for name in NAMES if scale.name == "full" or not by_name[name].only_full]
    groups = [by_name[name] for name in arguments.only or usual if name not in arguments.without]
    # Of what is installed pip makes bytecode, the peers' too; an editable package has it only if Python may write it.
    compileall.compile_dir(Path(__file__).parents[2] / "sqlitestore", quiet=1)
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="sqlitestore-bench-", dir=os.path.abspath(arguments.folder)))
    try:
        measured = Session(folder, scale, arguments.rounds, TerminalProgress()).measure(groups)
    finally:
        shutil.rmtree(folder)
    seconds = time.monotonic() - start
    lines = [line for line in (line_of(row, measured) for row in rows(scale)) if line]
    about = machine()
    imports = imported()
    subtitle = (
        f"{about['date']}, {about['machine']}, Python {about['python']}, SQLite {about['sqlite']}, Metaflow "
        f"{about['metaflow']}; {scale.name} run, medians of alternating rounds"
    )
    print(f"{subtitle}; {seconds:.0f} s\n")
    print(text_of(lines))
    for what, names in imports.items():
        print(f"\n`{what}` imports of others: {', '.join(names) or 'nothing'}")
    if arguments.json:
        durability = {name: peer.durability for name, peer in PEERS.items()}
        result: dict[str, Any] = {
            **about, "scale": asdict(scale), "seconds": seconds, "durability": durability, "imports": imports,
            "lines": [asdict(line) for line in lines],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.svg:
        title = "sqlitestore: how much less it needs (above 1 it is ahead)"
        arguments.svg.write_text(svg_of(lines, title, subtitle), encoding="utf-8")


if __name__ == "__main__":
    main()
