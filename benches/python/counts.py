"""What is counted, not timed: syncs, instructions, the start of the module, the wheel."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bodies import Bodies
from peers import PEERS, Keepq, Peer
from report import Row, Verdict
from rounds import reason
from targets import BATCH, MAIN, Bench

_SENDS = 100
_CALLS = "fsync,fdatasync,msync,sync_file_range,getpriority"
# Instructions are counted for so many messages, and for so many more: the difference has no start.
_COUNTED = (512, 2048)
_STARTS = 11
# Seconds that a counted process may take.
_PATIENCE = 300
_BENCH = str(Path(__file__).with_name("bench.py"))


def _row(
    bench: Bench,
    target: str,
    work: str,
    name: str,
    unit: str,
    count: Callable[[], float],
    note: str = "",
) -> float | None:
    """A row that is no race."""
    figure = None
    try:
        figure = count()
    except Exception as error:
        note = f"NOT RUN: {reason(error)}"
    bench.report.row(Row(target, work, name, figure, unit, None, note))
    return figure


def _run(command: list[str], **environment: str) -> str:
    env = {**os.environ, "PYTHONHASHSEED": "0", **environment}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise RuntimeError(last)
    return done.stdout


def syncs(bench: Bench) -> None:
    """How often everybody syncs in so many sends."""
    if shutil.which("strace") is None:
        raise RuntimeError("no strace: apt-get install strace")
    for sync in (True, False):
        work = f"syncs of {_SENDS} {'sync' if sync else 'async'} sends"
        for peer in bench.peers:
            if (peer.sync if sync else peer.lazy) is None:
                continue
            place = bench.place("syncs")
            count = partial(_syncs, peer, place, sync=sync)
            counted = _row(bench, "syncs", work, peer.name, "syncs", count)
            if sync and peer is Keepq:
                what = f"syncs of {_SENDS} sync sends"
                bench.report.judge(Verdict("syncs", what, counted, _SENDS, True))


def _syncs(peer: type[Peer], place: Path, *, sync: bool) -> float:
    log = place / "strace"
    role = [sys.executable, _BENCH, "--role", "syncs", peer.name, str(place / "q"), str(int(sync))]
    _run(["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={_CALLS}", *role])
    return between_marks(log.read_text(encoding="utf-8", errors="replace"))


def between_marks(trace: str) -> int:
    """The calls between the two marks that wait for the disk: msync with MS_ASYNC does not."""
    marks = found = 0
    for line in trace.splitlines():
        if "getpriority(" in line:
            marks += 1
        elif marks == 1 and "resumed>" not in line and "MS_ASYNC" not in line:
            found += 1
    if marks != 2:
        raise RuntimeError("the trace is not complete")
    return found


def role_syncs(name: str, place: str, sync: str) -> None:
    """The traced process."""
    peer = next(peer for peer in PEERS if peer.name == name)
    queue = peer(Path(place), sync=bool(int(sync)))
    bodies = Bodies(MAIN)
    queue.send_all(bodies.slice(0, 1))
    os.getpriority(os.PRIO_PROCESS, 0)
    for number in range(1, _SENDS + 1):
        queue.send_all(bodies.slice(number, 1))
    os.getpriority(os.PRIO_PROCESS, 0)
    queue.close()


_WORKS = {
    "send": 'send(body, flush="async")',
    "send_many": f"send_many of {BATCH}",
    "take": "receive + ack one by one",
    "take_many": f"receive + ack in batches of {BATCH}",
}


def instructions(bench: Bench, counted: str) -> None:
    """Instructions per message, as callgrind counts them. `counted`: where a wheel is whose clock
    valgrind understands, or why there is none."""
    if shutil.which("valgrind") is None:
        raise RuntimeError("no valgrind: apt-get install valgrind")
    if not Path(counted).is_dir():
        raise RuntimeError(counted or "no wheel was built for it")
    for work, text in _WORKS.items():
        place = bench.place("instructions")
        count = partial(_instructions, work, place, counted)
        _row(bench, "instr", text, "keepq", "instr/message", count)


def _instructions(work: str, place: Path, counted: str) -> float:
    counts = []
    for messages in _COUNTED:
        out, store = place / f"callgrind.{messages}", place / str(messages)
        valgrind = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={out}"]
        role = [_BENCH, "--role", "counted", work, str(store), str(messages)]
        _run([*valgrind, sys.executable, *role], PYTHONPATH=counted)
        lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
        totals = [line for line in lines if line.startswith("totals: ")]
        counts.append(int(totals[0].removeprefix("totals: ")))
    return (counts[1] - counts[0]) / (_COUNTED[1] - _COUNTED[0])


def role_counted(work: str, place: str, messages: str) -> None:
    """The counted process. What it takes was sent by itself before, which is counted, too, and
    stays out by sending as many every time."""
    queue, bodies = Keepq(Path(place), sync=False), Bodies(MAIN)
    takes = work.startswith("take")
    if takes:
        for first in range(0, _COUNTED[1], BATCH):
            queue.send_batch(bodies.slice(first, BATCH))
    do = {
        "send": queue.send_all,
        "send_many": queue.send_batch,
        "take": queue.take,
        "take_many": queue.take_batch,
    }[work]
    for first in range(0, int(messages), BATCH):
        do(bodies.slice(first, BATCH))
    queue.close()


def start(bench: Bench, wheel: Path) -> None:
    """How long `import keepq` takes in a fresh interpreter, and how large the wheel is."""
    clock = "from time import perf_counter as t; a = t(); import keepq; print(t() - a)"

    def wall() -> float:
        times = [float(_run([sys.executable, "-c", clock])) for _ in range(_STARTS)]
        return statistics.median(times) * 1000

    note = f"median of {_STARTS} fresh interpreters"
    took = _row(bench, "import", "import keepq, wall clock", "keepq", "ms", wall, note)
    bench.report.judge(Verdict("import", "import keepq, ms", took, 30, False))
    note = "user + system, beyond that of a bare interpreter"
    _row(bench, "import", "import keepq, CPU", "keepq", "ms", _cpu_of_import, note)

    def megabytes() -> float:
        return wheel.stat().st_size / 1e6

    size = _row(bench, "wheel", "size of the wheel", "keepq", "MB", megabytes, wheel.name)
    bench.report.judge(Verdict("wheel", "size of the wheel, MB", size, 4, False))


def _cpu_of_import() -> float:
    def cpu(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run([sys.executable, "-c", code])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000

    return statistics.median(cpu("import keepq") - cpu("pass") for _ in range(_STARTS))
