"""Repairing a damaged store, and what statistics say of what keeps the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import keepq
import pytest


def damaged(path: Path) -> Path:
    """A store whose second message is damaged; gives the segment."""
    with keepq.open(path) as kq:
        kq.topic("t").send_many([b"before", b"the damaged one", b"after"])
        kq.group("t", "g")
    [segment] = (p for p in (path / "log").iterdir() if b"the damaged one" in p.read_bytes())
    position = segment.read_bytes().index(b"the damaged one")
    with segment.open("r+b") as file:
        file.seek(position)
        file.write(b"The")
        os.fsync(file.fileno())
    return segment


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store but the lock and shared memory, which even looking at it touches."""
    files = (p for p in path.rglob("*") if p.is_file() and p.name not in ("LOCK", "ctl"))
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_a_damaged_store_is_repaired_and_tells_what_is_lost(path: Path) -> None:
    segment = damaged(path)
    before = content(path)
    told: list[tuple[int, int]] = []
    would = keepq.repair(path, dry_run=True, progress=lambda *bytes: told.append(bytes))
    assert content(path) == before, "a dry run changes nothing"
    assert told and all(0 <= done <= total for done, total in told) and told[-1][1] > 0
    assert not would.before.ok and would.ok and would.actions
    assert would.lost == (keepq.LostMessages("t", 1, 1),)

    done = keepq.repair(path)
    assert not done.before.ok and done.ok and done.after.ok
    assert (done.lost, done.lost_state) == (would.lost, ())
    assert done.quarantined and all((path / copy).is_file() for copy in done.quarantined)
    assert before[f"log/{segment.name}"] in [(path / c).read_bytes() for c in done.quarantined]
    assert [finding.known for finding in done.before.findings if finding.damage] == [False]
    assert any(finding.known and not finding.damage for finding in done.after.findings)
    with keepq.open(path) as kq:
        assert kq.verify().ok
        group = kq.group("t", "g")
        got: list[bytes] = []
        lost = 0
        while len(got) < 2:
            try:
                with group.receive(timeout=30) as message:
                    got.append(message.body)
            except keepq.CorruptError:
                lost += 1
        assert (got, group.poll()) == ([b"before", b"after"], None)
        assert lost >= 1, "the group is told"


def test_a_whole_store_needs_no_repair(path: Path) -> None:
    with keepq.open(path) as kq:
        kq.topic("t").send(b"x")
        with pytest.raises(keepq.Busy):
            keepq.repair(path)
    before = content(path)
    report = assert_type(keepq.repair(str(path)), keepq.RepairReport)
    assert report.ok and (report.actions, report.lost, report.quarantined) == ((), (), ())
    assert report.before == report.after and report.before.messages == 1
    assert content(path) == before
    with pytest.raises(keepq.NotFound):
        keepq.repair(path / "nowhere")


def test_what_the_progress_raises_is_raised_when_the_repair_is_done(path: Path) -> None:
    damaged(path)
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match=" of "):
        keepq.repair(path, progress=progress)
    assert calls == 1
    assert keepq.repair(path).actions == (), "it was repaired"


def test_statistics_name_what_keeps_the_disk(path: Path) -> None:
    with keepq.open(path) as kq:
        topic, group = kq.topic("t"), kq.group("t", "g")
        assert kq.stats().pin is None

        def pin(right: Callable[[keepq.Pin | None], bool]) -> keepq.Pin | None:
            """What keeps the disk. It is found anew after a while only."""
            until = time.monotonic() + 60
            while not right(found := kq.stats().pin):
                assert time.monotonic() < until, found
                time.sleep(0.01)
            return found

        sent = topic.send(b"x" * 1000)
        unread = pin(lambda pin: pin is not None)
        assert unread is not None and unread.bytes > 1000
        assert (unread.topic, unread.group, unread.seq, unread.id) == ("t", "g", 0, sent.id)
        assert unread.kind == "unread"
        message = group.receive(timeout=5)
        pin(lambda pin: pin is not None and pin.kind == "outstanding")
        message.reject("bad")
        dead = pin(lambda pin: pin is not None and pin.kind == "dead")
        stats = kq.stats()
        assert [stats.groups[0].pin, group.stats().pin] == [dead, dead]
        assert dead in [topic.pin for topic in stats.topics]
        group.dlq.purge()
        pin(lambda pin: pin is None)
        kq.topic("lonely").send(b"x")
        kept = pin(lambda pin: pin is not None)
        assert kept is not None and (kept.kind, kept.topic, kept.group) == ("kept", "lonely", None)
