"""Hops between two processes: how long after a send began a receive returned that was blocked in
another process. Both read the clock that the whole machine shares."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any

import peers
from bodies import Bodies, Wrong
from rounds import Entrant

_TRIPS = 200
# Between trips, so that the other side has gone to sleep: seconds.
_REST = 0.0005
# Until the other process is there, or an answer came: seconds.
_PATIENCE = 30
MEMORY = "multiprocessing.Queue"
_spawn = multiprocessing.get_context("spawn")

# Waits for a message; gives its body and what acknowledges it.
_Receive = Callable[[], tuple[bytes, Callable[[], object]]]


def _nothing() -> None:
    """The ack of what needs none."""


def _consume(receive: _Receive, answers: Connection, size: int, first: int) -> None:
    """The other process: says when each message came."""
    bodies = Bodies(size)
    answers.send(0)
    for number in range(first, first + _TRIPS):
        body, ack = receive()
        arrived = perf_counter_ns()
        answers.send(arrived if body == bodies.one(number) else -1)
        ack()


def _consume_peer(name: str, place: str, answers: Connection, size: int, first: int) -> None:
    kind = next(peer for peer in peers.PEERS if peer.name == name)
    queue = kind(Path(place), sync=False)
    _consume(queue.receive, answers, size, first)
    queue.close()


def _consume_queue(queue: Any, answers: Connection, size: int, first: int) -> None:
    _consume(lambda: (queue.get(), _nothing), answers, size, first)


def _consume_pipe(pipe: Connection, answers: Connection, size: int, first: int) -> None:
    _consume(lambda: (pipe.recv_bytes(), _nothing), answers, size, first)


def _trips(
    target: Callable[..., None],
    shared: tuple[object, ...],
    send: Callable[[bytes], object],
    bodies: Bodies,
    first: int,
) -> float:
    """The median hop of one turn, in microseconds."""
    answers, theirs = _spawn.Pipe(duplex=False)
    args = (*shared, theirs, bodies.size, first)
    process = _spawn.Process(target=target, args=args, daemon=True)
    process.start()
    try:
        _answer(answers)
        times = []
        for number in range(first, first + _TRIPS):
            body = bodies.one(number)
            sleep(_REST)
            started = perf_counter_ns()
            send(body)
            arrived = _answer(answers)
            if arrived < 0:
                raise Wrong(f"message {number} differs from what was sent")
            times.append((arrived - started) / 1000)
    finally:
        process.join(_PATIENCE)
        process.kill()
    return statistics.median(times)


def _answer(answers: Connection) -> int:
    if not answers.poll(_PATIENCE):
        raise RuntimeError("the other process does not answer")
    answer: int = answers.recv()
    return answer


def of(peer: type[peers.Peer], place: Path, bodies: Bodies) -> Entrant:
    """The hop through a peer."""
    queue = peer(place, sync=False)
    first = -_TRIPS

    def turn() -> float:
        nonlocal first
        first += _TRIPS
        shared = (peer.name, str(place))
        return _trips(_consume_peer, shared, lambda body: queue.send_all([body]), bodies, first)

    note = "never syncs" if peer.never_syncs else ""
    return Entrant(peer.name, note, turn, queue.close)


def memory(bodies: Bodies) -> Entrant:
    """The hop through a queue of multiprocessing."""
    queue: Any = _spawn.Queue()

    def turn() -> float:
        return _trips(_consume_queue, (queue,), queue.put, bodies, 0)

    return Entrant(MEMORY, "in memory", turn, queue.close)


def pipe(bodies: Bodies) -> Entrant:
    """The hop through a pipe: the least that the kernel asks for."""
    reader, writer = _spawn.Pipe(duplex=False)

    def turn() -> float:
        return _trips(_consume_pipe, (reader,), writer.send_bytes, bodies, 0)

    return Entrant("raw pipe", "multiprocessing.Pipe", turn)
