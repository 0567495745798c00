"""The works that are measured: T1, T4, T5 and T6 of docs/PERFORMANCE.md, from Python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import hop
from bodies import Bodies, Wrong
from peers import Peer
from report import Report, Verdict
from rounds import SLOT, Entrant, alternate, attempt, rate, ratio, settle_disk

SIZES = (128, 1024)
# The size that targets are judged by.
MAIN = 128
BATCH = 256
RAW = "raw pwrite + fdatasync"
# What a header adds to a body in the raw loop, as in keepq's log.
HEADER = 64
_FILE = 64 << 20


@dataclass
class Bench:
    """What a measurement needs to know."""

    stores: Path
    peers: list[type[Peer]]
    report: Report
    rounds: int

    def place(self, name: str) -> Path:
        """An empty directory for one measurement."""
        place = self.stores / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place


def _within(place: Path, peer: type[Peer]) -> Path:
    return place / "".join(c if c.isalnum() else "-" for c in peer.name)


def _sender(
    peer: type[Peer], place: Path, bodies: Bodies, chunk: int, *, sync: bool, batch: bool
) -> Entrant:
    """Sends for a slot of time, chunk by chunk."""
    queue = peer(_within(place, peer), sync=sync)
    send: Callable[[list[bytes]], object] | None = queue.send_batch if batch else queue.send_all
    if send is None:
        raise RuntimeError("it has no sends in batches")
    sent = 0

    def work(_done: int) -> int:
        nonlocal sent
        send(bodies.slice(sent, chunk))
        sent += chunk
        return chunk

    def turn() -> float:
        figure = rate(work)
        queue.tidy()
        return figure

    def end() -> None:
        """The first of them must be there as they were sent."""
        if peer.take_by is not None:
            queue.take(bodies.slice(0, min(sent, chunk)))
        queue.close()

    return Entrant(peer.name, _label(peer, sync=sync), turn, end)


def _label(peer: type[Peer], *, sync: bool) -> str:
    if sync:
        return "" if peer.waits_for_disk else "does not wait for the disk"
    return "never syncs" if peer.never_syncs else ""


def _raw(place: Path, bodies: Bodies) -> Entrant:
    """Writes records into a file whose every block is written and on the disk, and syncs each."""
    path = place / "raw"
    with path.open("wb") as file:
        for _ in range(_FILE >> 20):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDWR)
    record = bytes(HEADER) + bodies.one(0)
    at = 0

    def work(_done: int) -> int:
        nonlocal at
        os.pwrite(fd, record, at)
        os.fdatasync(fd)
        at = at + len(record) if at + 2 * len(record) <= _FILE else 0
        return 1

    return Entrant(RAW, f"records of {len(record)} bytes", lambda: rate(work), lambda: os.close(fd))


def _named(entrants: list[Entrant], name: str) -> Entrant | None:
    return next((entrant for entrant in entrants if entrant.name == name), None)


def _against(entrants: list[Entrant], other: str) -> float | None:
    keepq, peer = _named(entrants, "keepq"), _named(entrants, other)
    return ratio(keepq, peer) if keepq and peer else None


def _keepq(entrants: list[Entrant]) -> float | None:
    keepq = _named(entrants, "keepq")
    return keepq.figure if keepq else None


def t1(bench: Bench) -> None:
    """Sync sends by one thread."""
    for size in SIZES:
        place, bodies = bench.place("t1"), Bodies(size)
        entrants = [attempt(RAW, _maker(_raw, place, bodies))]
        for peer in bench.peers:
            if peer.sync is not None:
                make = _maker(_sender, peer, place, bodies, 1, sync=True, batch=False)
                entrants.append(attempt(peer.name, make))
        alternate(bench.rounds, entrants, place)
        bench.report.add("T1", f"sync send, {size} B", "1/s", entrants)
        if size == MAIN:
            measured = _against(entrants, RAW)
            what = "sync send, of the raw loop from Python"
            bench.report.judge(Verdict("T1", what, measured, 0.9, True))


def _maker(make: Callable[..., Entrant], *args: object, **options: object) -> Callable[[], Entrant]:
    return lambda: make(*args, **options)


def t4(bench: Bench) -> None:
    """Sends that do not wait for the disk: one by one, in batches, with futures."""
    for size in SIZES:
        for batch in (False, True):
            entrants = _lazy(bench, size, batch=batch)
            if size == MAIN:
                _judge_lazy(bench, entrants, batch=batch)
        _futures_of(bench, size)


def _lazy(bench: Bench, size: int, *, batch: bool) -> list[Entrant]:
    place, bodies = bench.place("t4"), Bodies(size)
    able = [peer for peer in bench.peers if peer.lazy is not None]
    if batch:
        able = [peer for peer in able if peer.send_batch is not None]
    make = [_maker(_sender, p, place, bodies, BATCH, sync=False, batch=batch) for p in able]
    entrants = [attempt(p.name, m) for p, m in zip(able, make, strict=True)]
    alternate(bench.rounds, entrants, place)
    how = f"async send_many of {BATCH}" if batch else "async send"
    bench.report.add("T4", f"{how}, {size} B", "1/s", entrants)
    return entrants


def _judge_lazy(bench: Bench, entrants: list[Entrant], *, batch: bool) -> None:
    judge, figure = bench.report.judge, _keepq(entrants)
    if batch:
        judge(Verdict("T4", "send_many, 1/s", figure, 3e6, True))
        return
    judge(Verdict("T4", 'send(flush="async"), 1/s', figure, 1e6, True))
    what = 'send(flush="async"), of lmdb-queue'
    measured = _against(entrants, "lmdb-queue")
    judge(Verdict("T4", what, measured, 5, True, "lmdb-queue never syncs"))


def _futures_of(bench: Bench, size: int) -> None:
    place, bodies = bench.place("t4"), Bodies(size)
    if not any(peer.name == "keepq" for peer in bench.peers):
        return
    entrants = [attempt("keepq", lambda: _futures(place, bodies))]
    alternate(bench.rounds, entrants, place)
    bench.report.add("T4", f"send_async with futures, {size} B", "1/s", entrants)
    if size == MAIN:
        what = "send_async with futures, 1/s"
        bench.report.judge(Verdict("T4", what, _keepq(entrants), 2e5, True))


def _futures(place: Path, bodies: Bodies) -> Entrant:
    """Sends whose futures say that they are on the disk; the time ends with the last of them."""
    import keepq

    store = keepq.open(place / "keepq")
    topic = store.topic("t")
    sent = 0

    def turn() -> float:
        nonlocal sent
        futures = []
        started = perf_counter()
        while perf_counter() - started < SLOT:
            futures += [topic.send_async(body) for body in bodies.slice(sent, BATCH)]
            sent += BATCH
        results = [future.result(timeout=60) for future in futures]
        took = perf_counter() - started
        if not all(result.durable for result in results):
            raise Wrong("a future was completed before its message was on the disk")
        if results[-1].seq != sent - 1:
            raise Wrong(f"{sent} messages were sent, and the last one is number {results[-1].seq}")
        return len(futures) / took

    return Entrant("keepq", "on the disk; at most 1,024 in flight", turn, store.close)


def t5(bench: Bench) -> None:
    """Receives with acks over a backlog."""
    for size in SIZES:
        for batch in (False, True):
            place, bodies = bench.place("t5"), Bodies(size)
            able = [peer for peer in bench.peers if peer.take_by is not None]
            if batch:
                able = [peer for peer in able if peer.take_batch is not None]
            make = [_maker(_taker, peer, place, bodies, batch=batch) for peer in able]
            entrants = [attempt(p.name, m) for p, m in zip(able, make, strict=True)]
            settle_disk(place)
            alternate(bench.rounds, entrants, place)
            how = f"in batches of {BATCH}" if batch else "one by one"
            bench.report.add("T5", f"receive + ack {how}, {size} B", "1/s", entrants)
            if size == MAIN:
                what = f"receive + ack {how}, 1/s"
                needed = 2e6 if batch else 5e5
                bench.report.judge(Verdict("T5", what, _keepq(entrants), needed, True))


def _taker(peer: type[Peer], place: Path, bodies: Bodies, *, batch: bool) -> Entrant:
    """Takes for a slot of time; then the backlog is filled up again, outside of the time."""
    depth = peer.depth * MAIN // bodies.size if peer.depth > 100_000 else peer.depth
    queue = peer(_within(place, peer), sync=False)
    take = queue.take_batch if batch else queue.take
    send = queue.send_batch or queue.send_all
    if take is None:
        raise RuntimeError("it has no receives in batches")
    sent = taken = 0

    def fill() -> None:
        nonlocal sent
        while sent - taken < depth:
            send(bodies.slice(sent, BATCH))
            sent += BATCH
        queue.tidy()

    def work(_done: int) -> int:
        nonlocal taken
        count = min(BATCH if batch else 32, sent - taken)
        if count > 0:
            take(bodies.slice(taken, count))
            taken += count
        return count

    def turn() -> float:
        figure = rate(work)
        fill()
        return figure

    fill()
    return Entrant(peer.name, f"{depth:,} waiting", turn, queue.close)


def t6(bench: Bench) -> None:
    """The hop from a send in one process to the return of a receive that was blocked in another."""
    for size in SIZES:
        place, bodies = bench.place("t6"), Bodies(size)
        entrants = [hop.pipe(bodies), hop.memory(bodies)]
        able = [peer for peer in bench.peers if peer.hops]
        for peer in able:
            make = _maker(hop.of, peer, _within(place, peer), bodies)
            entrants.append(attempt(peer.name, make))
        alternate(bench.rounds, entrants, place)
        bench.report.add("T6", f"hop to a blocked process, {size} B, p50", "us", entrants)
        if size == MAIN:
            measured = _against(entrants, hop.MEMORY)
            what = "hop between two processes, of multiprocessing.Queue"
            bench.report.judge(Verdict("T6", what, measured, 0.6, False))
