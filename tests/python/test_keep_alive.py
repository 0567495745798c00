"""Leases that are kept while their messages are worked on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import keepq
import pytest

Run = Callable[..., subprocess.Popen[str]]

# Seconds. It is extended three times as often as it must be: a busy machine may let the thread that
# does so not run for longer than a second.
LEASE = 2.0


def outlast(group: keepq.Group, seconds: float) -> keepq.Message | None:
    """Waits that long for another message of the group: the one that is held must not come."""
    try:
        return group.receive(timeout=seconds)
    except keepq.Empty:
        return None


def test_a_kept_lease_outlasts_itself_and_is_settled_at_the_end(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", lease=LEASE)
    with group.receive(timeout=5).keep_alive() as msg:
        assert outlast(group, 2.5 * LEASE) is None
        assert msg.body == b"x"
    stats = group.stats()
    assert (stats.ready, stats.in_flight) == (0, 0)


def test_a_lease_that_is_not_kept_ends(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", lease=0.3, backoff=keepq.Backoff(first=0.001))
    with pytest.raises(keepq.LeaseLost), group.receive(timeout=5):
        assert outlast(group, 60) is not None


def test_leaving_ends_the_keeping(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"a", b"b"])
    group = kq.group("t", "g", lease=LEASE, backoff=keepq.Backoff(first=0.001))
    with pytest.raises(RuntimeError, match="on purpose"):
        with group.receive(timeout=5).keep_alive():
            raise RuntimeError("on purpose")
    with (
        group.receive(timeout=5).keep_alive(),
        group.receive(timeout=5).keep_alive(1.1 * LEASE) as msg,
    ):
        assert outlast(group, 2.5 * LEASE) is None
        msg.reject("by hand")
    assert (group.stats().dead, group.stats().in_flight) == (1, 0)


def test_retry_and_reject_end_the_block_as_they_say(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"a", b"b"])
    group = kq.group("t", "g")
    with group.receive(timeout=5).keep_alive():
        raise keepq.Retry(delay=60)
    with group.receive(timeout=5).keep_alive():
        raise keepq.Reject("why")
    assert (group.stats().delayed, group.dlq.browse().__next__().reason) == (1, "why")


def test_a_lease_is_kept_once_and_only_while_it_lasts(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"x", b"y"])
    group = kq.group("t", "g")
    msg = group.receive(timeout=5)
    kept = msg.keep_alive()
    with kept, pytest.raises(RuntimeError, match="one with statement"):
        kept.__enter__()
    with pytest.raises(keepq.LeaseLost):
        msg.keep_alive().__enter__()


# Keeps a message while a library holds the interpreter for six seconds, and says what came of it.
HOLDER = """
import ctypes, sys, keepq
kq = keepq.open(sys.argv[1])
group = kq.group("t", "g")
with group.receive(timeout=30).keep_alive():
    print("holding", flush=True)
    # PyDLL calls with the GIL held.
    ctypes.PyDLL(None).usleep(6_000_000)
print("acked", flush=True)
"""


def test_a_program_that_holds_the_gil_keeps_its_leases(
    kq: keepq.Store, path: Path, run_python: Run
) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", lease=LEASE)
    child = run_python(HOLDER, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "holding\n"
    assert outlast(group, 2.5 * LEASE) is None
    out, error = child.communicate(timeout=60)
    assert out == "acked\n", error


def test_the_keeping_does_not_keep_the_store_open(path: Path) -> None:
    kq = keepq.open(path)
    kq.topic("t").send(b"x")
    with kq.group("t", "g").receive(timeout=5).keep_alive():
        pass
    before = len(os.listdir("/proc/self/fd"))
    del kq
    assert len(os.listdir("/proc/self/fd")) < before
    with keepq.open(path) as again:
        assert again.stats().members == 1
