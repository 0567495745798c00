"""Processes that are killed, between a body that was read and its ack, and while they send."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import keepq

Run = Callable[..., subprocess.Popen[str]]

# Receives, and says what it has before it acks; what it did with it stands in a file by then. It
# stops between the two when it is told to.
CONSUMER = """
import sys, keepq
path, out, hold = sys.argv[1], sys.argv[2], int(sys.argv[3])
with keepq.open(path) as kq, open(out, "ab", buffering=0) as done:
    group = kq.group("t", "g")
    for n, msg in enumerate(group):
        done.write(msg.body + b" %d\\n" % msg.attempt)
        if n == hold:
            print("holding", flush=True)
            sys.stdin.read()
        msg.ack()
        print("acked", flush=True)
"""

# Sends numbered messages asynchronously, and tells of each that was confirmed.
SENDER = """
import os, sys, keepq
kq = keepq.open(sys.argv[1])
loader = kq.producer("loader")
for n in range(loader.next_seq, 100_000):
    loader.send_async(
        "t", b"%d" % n, seq=n, on_success=lambda r: os.write(1, b"%d\\n" % r.seq)
    )
"""


def kill(child: subprocess.Popen[str]) -> str:
    """SIGKILL, to a child that is ours. Gives what it had said."""
    assert child.pid > 1 and child.poll() is None
    child.kill()
    out, error = child.communicate(timeout=60)
    assert child.returncode == -9, error
    return out


def test_a_body_that_was_read_and_not_acked_comes_again(
    kq: keepq.Store, path: Path, tmp_path: Path, run_python: Run
) -> None:
    kq.topic("t").send_many([b"%d" % i for i in range(20)])
    group, out = kq.group("t", "g"), tmp_path / "out"
    for turn in range(5):
        child = run_python(CONSUMER, path, out, turn)
        assert child.stdout is not None
        for _ in range(turn):
            assert child.stdout.readline() == "acked\n"
        assert child.stdout.readline() == "holding\n"
        kill(child)
    # Every message that was acked stays acked; each that was held comes again, with its attempts.
    while (msg := group.poll()) is not None or group.stats().in_flight:
        if msg is None:
            msg = group.receive(timeout=60)
        with msg, out.open("ab") as file:
            file.write(msg.body + b" %d\n" % msg.attempt)
    lines = [line.split() for line in out.read_bytes().splitlines()]
    seen = [int(body) for body, _ in lines]
    assert set(seen) == set(range(20)) and len(seen) == 20 + 5
    # Of each message the attempts count up from one: what was read before it came again.
    for body in range(20):
        attempts = [int(attempt) for b, attempt in lines if int(b) == body]
        assert attempts == list(range(1, len(attempts) + 1))
    assert group.stats().dead == 0 and group.qsize() == 0


def test_what_was_confirmed_before_a_kill_is_there_and_nothing_twice(
    path: Path, run_python: Run
) -> None:
    confirmed: set[int] = set()
    for _ in range(3):
        child = run_python(SENDER, path)
        assert child.stdout is not None
        for _ in range(50):
            confirmed.add(int(child.stdout.readline()))
        said = kill(child)
        # The last line may be half of one.
        confirmed.update(int(line) for line in said.split("\n")[:-1] if line)
    with keepq.open(path) as kq:
        stored = list(kq.topic("t").browse())
        numbers = [m.producer_seq for m in stored]
        assert numbers == list(range(len(stored)))
        assert [m.body for m in stored] == [b"%d" % n for n in range(len(stored))]
        assert confirmed <= {m.seq for m in stored}
        assert kq.producer("loader").next_seq == len(stored)
        assert kq.verify().ok


def test_a_killed_process_takes_its_detached_leases_not_along(
    kq: keepq.Store, path: Path, tmp_path: Path, run_python: Run
) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", lease=600)
    code = (
        "import sys, keepq; g = keepq.open(sys.argv[1]).group('t', 'g');"
        "print(g.receive(30, detached=True).receipt, flush=True); sys.stdin.read()"
    )
    child = run_python(code, path)
    assert child.stdout is not None
    receipt = child.stdout.readline().strip()
    kill(child)
    assert group.poll() is None and group.stats().in_flight == 1
    kq.nack(receipt, delay=0)
    assert group.receive(timeout=5).attempt == 2
