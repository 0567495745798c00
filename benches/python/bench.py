"""keepq's Python module beside its peers, in one run: what `cargo xtask bench --python` starts.

bench.py --out DIR --wheel FILE [--counted DIR_OR_REASON] [--not-run NAME=REASON]...
         [--only T1,T4,T5,T6,syncs,instr,start] [--peers keepq,litequeue] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import counts
from peers import PEERS, Peer
from report import Report
from rounds import reason
from targets import Bench, t1, t4, t5, t6

# What is left after this is not begun: seconds.
_LIMIT = 12 * 60


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--counted", default="")
    parser.add_argument("--not-run", action="append", default=[])
    parser.add_argument("--only", type=_list, default=[])
    parser.add_argument("--peers", type=_list, default=[])
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def _list(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",")]


def _machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in info if line.startswith("model name"))
    model = next(models, "an unknown processor")
    load = " and ".join(f"{n:.2f}" for n in os.getloadavg()[:2])
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, CPython "
        f"{platform.python_version()}, load {load} before the run"
    )


def _peers(report: Report, wanted: list[str], not_run: list[str]) -> list[type[Peer]]:
    """Who takes part, entered with its settings."""
    reasons = dict(line.partition("=")[::2] for line in not_run)
    found = []
    for peer in PEERS:
        base = peer.name.partition(",")[0]
        if wanted and base != "keepq" and base.lower() not in wanted:
            continue
        try:
            label = peer.label()
        except Exception as error:
            why = reasons.get(base, f"it is not installed ({reason(error)})")
            report.not_run.append(f"{peer.name}: {why}")
            print(f"NOT RUN {peer.name}: {why}")
            continue
        none = "none"
        never = " (never syncs)" if peer.lazy and peer.never_syncs else ""
        settings = (
            f"{label}: sync sends: {peer.sync or none}; async sends: {peer.lazy or none}{never}; "
            f"receive + ack: {peer.take_by or none}; depth at most {peer.depth:,}"
        )
        print(settings)
        report.settings.append(settings)
        found.append(peer)
    return found


def main() -> int:
    """Measures one after the other, and writes what there is after each."""
    args = _arguments()
    report = Report(_machine())
    args.out.mkdir(parents=True, exist_ok=True)
    stores = args.out / "stores"
    bench = Bench(stores, _peers(report, args.peers, args.not_run), report, args.rounds)
    works: dict[str, Callable[[], None]] = {
        "start": lambda: counts.start(bench, args.wheel),
        "T1": lambda: t1(bench),
        "T4": lambda: t4(bench),
        "T5": lambda: t5(bench),
        "T6": lambda: t6(bench),
        "syncs": lambda: counts.syncs(bench),
        "instr": lambda: counts.instructions(bench, args.counted),
    }
    print(report.header)
    started = monotonic()
    for name, work in works.items():
        if args.only and name.lower() not in args.only:
            continue
        if monotonic() - started > _LIMIT:
            report.not_run.append(f"{name}: the time of a run, {_LIMIT // 60} minutes, was over")
            continue
        print(name, flush=True)
        try:
            work()
        except Exception as error:
            report.not_run.append(f"{name}: {reason(error)}")
            print(f"  NOT RUN: {reason(error)}", flush=True)
        report.write(args.out)
    shutil.rmtree(stores, ignore_errors=True)
    print(f"took {monotonic() - started:.0f} s")
    for verdict in report.verdicts:
        print(f"{verdict.target:<7} {verdict.what:<52} {verdict.word}")
    print(args.out / "report.md")
    return 0


if __name__ == "__main__":
    if sys.argv[1:3] == ["--role", "syncs"]:
        counts.role_syncs(*sys.argv[3:])
    elif sys.argv[1:3] == ["--role", "counted"]:
        counts.role_counted(*sys.argv[3:])
    else:
        sys.exit(main())
