"""Looking without receiving: browse, find, dead letters; read-only stores; options and places."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import keepq
import pytest


def bury(kq: keepq.Store, *bodies: bytes, reason: str = "no good") -> keepq.Group:
    """A group whose dead letters these are."""
    group = kq.group("t", "g")
    kq.topic("t").send_many([keepq.Msg(body, key="k", tag="x") for body in bodies])
    for _ in bodies:
        group.receive(timeout=5).reject(reason)
    return group


def test_a_topic_is_browsed_without_claiming(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    sent = topic.send_many([keepq.Msg(b"%d" % i, key="k", headers={"h": b"v"}) for i in range(9)])
    seen = list(topic.browse())
    assert [m.body for m in seen] == [b"%d" % i for i in range(9)]
    assert [m.id for m in seen] == [r.id for r in sent.ok]
    first = seen[0]
    assert (first.seq, first.topic, first.key, first.tag) == (0, "t", "k", None)
    assert (first.headers, first.producer, first.producer_seq) == ({"h": b"v"}, None, None)
    assert abs(datetime.now(UTC) - first.sent_at) < timedelta(minutes=1)
    assert first.damage is None and first.id in repr(first)
    assert [m.seq for m in topic.browse(start=5, limit=2)] == [5, 6]
    assert [m.seq for m in topic.browse(start="earliest", limit=1)] == [0]
    assert [m.seq for m in topic.browse(last=3)] == [6, 7, 8]
    assert list(topic.browse(limit=0)) == []
    assert group.stats().in_flight == 0 and group.qsize() == 9


def test_a_browse_that_has_ended_goes_on_with_what_came_since(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    browse = topic.browse()
    assert list(browse) == []
    topic.send(b"x")
    assert [m.body for m in browse] == [b"x"]
    with pytest.raises(keepq.InvalidArgument):
        topic.browse(start=1, last=1)
    with pytest.raises(keepq.InvalidArgument):
        topic.browse(start="latest")  # type: ignore[arg-type]
    with pytest.raises(keepq.NotSupported, match="key"):
        topic.browse(key="k")  # type: ignore[arg-type]


def test_a_message_is_found_by_its_id(kq: keepq.Store) -> None:
    sent = kq.topic("other").send(b"x", key="k")
    found = kq.find(sent.id)
    assert found is not None
    assert (found.id, found.topic, found.seq, found.body) == (sent.id, "other", 0, b"x")
    assert kq.find("0" * 16) is None
    with pytest.raises(keepq.InvalidArgument):
        kq.find("no id")


def test_dead_letters_say_what_became_of_them(kq: keepq.Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    group = bury(kq, b"a", b"b", b"c")
    letters = list(group.dlq.browse(limit=20))
    assert [d.body for d in letters] == [b"a", b"b", b"c"]
    first = letters[0]
    assert (first.topic, first.topic_seq, first.seq) == ("t", 0, 0)
    assert (first.key, first.tag, first.attempts) == ("k", "x", 1)
    assert (first.reason, first.rejected, first.damage) == ("no good", True, None)
    assert before <= first.dead_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(first, keepq.Browsed) and first.id in repr(first)
    assert len(group.dlq) == 3 == group.stats().dead
    assert [d.body for d in group.dlq.browse(limit=2)] == [b"a", b"b"]
    assert [d.body for d in group.dlq.browse(start=2)] == [b"c"]
    assert [d.body for d in group.dlq] == [b"a", b"b", b"c"]
    assert "t" in repr(group.dlq)


def test_a_dead_letter_is_got_and_purged_by_its_id(kq: keepq.Store) -> None:
    dlq = bury(kq, b"a", b"b", b"c").dlq
    a, b, c = dlq.browse()
    got = dlq.get(b.id)
    assert got is not None and (got.body, got.seq) == (b"b", 1)
    assert dlq.get("0" * 16) is None
    assert dlq.purge(b) == 1 and dlq.purge(b) == 0
    assert dlq.purge(c.id) == 1 and dlq.purge("0" * 16) == 0
    assert [d.body for d in dlq] == [b"a"]
    assert dlq.purge() == 1 and dlq.purge() == 0
    assert len(dlq) == 0 and dlq
    with pytest.raises(keepq.InvalidArgument):
        dlq.get("no id")
    with pytest.raises(TypeError):
        dlq.purge(7)  # type: ignore[arg-type]


def test_attempts_that_are_used_up_make_a_dead_letter(kq: keepq.Store) -> None:
    group = kq.group("t", "g", max_attempts=2)
    kq.topic("t").send(b"x")
    for _ in range(2):
        group.receive(timeout=5).nack(0)
    assert group.poll() is None
    [letter] = group.dlq
    assert (letter.attempts, letter.rejected) == (2, False)


def test_one_browse_is_for_one_thread_at_a_time(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"x"] * 400)
    browse, seen, refused = kq.topic("t").browse(), [0], []

    def walk() -> None:
        while True:
            try:
                next(browse)
            except StopIteration:
                return
            except keepq.InvalidArgument as error:
                refused.append(error)
            else:
                seen[0] += 1

    threads = [threading.Thread(target=walk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [400]


def test_options_of_a_group_can_be_asked_for_and_changed(kq: keepq.Store) -> None:
    group = kq.group("t", "g", lease=12, max_attempts=3, ack_flush="sync")
    config = group.config()
    # Half of the 65,536 slots of a store, every message, in any order.
    rest = (32_768, (), False)
    assert config == keepq.GroupConfig(12, 3, keepq.Backoff(), "sync", *rest)
    backoff = keepq.Backoff(first=0.5, factor=3, max=7, jitter=0)
    changed = group.configure(lease=timedelta(seconds=60), backoff=backoff)
    assert changed == keepq.GroupConfig(60, 3, backoff, "sync", *rest)
    assert group.configure(max_attempts=5, ack_flush="async").max_attempts == 5
    assert kq.group("t", "g").config() == keepq.GroupConfig(60, 5, backoff, "async", *rest)
    with pytest.raises(keepq.ConfigMismatch, match="12"):
        kq.group("t", "g", lease=12)
    with pytest.raises(keepq.InvalidArgument):
        group.configure(max_attempts=0)
    assert group.configure() == group.config()


def test_a_group_can_start_at_a_time(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send(b"early")
    [early] = topic.browse()
    while True:
        topic.send(b"late")
        late = list(topic.browse())[-1]
        if late.sent_at > early.sent_at:
            break
    plus_two = late.sent_at.astimezone(timezone(timedelta(hours=2)))
    msg = kq.group("t", "now", start=plus_two).receive(timeout=5)
    assert msg.sent_at == late.sent_at and msg.seq == late.seq
    future = kq.group("t", "future", start=datetime(2999, 1, 1, tzinfo=UTC))
    assert future.poll() is None
    with pytest.raises(keepq.InvalidArgument, match="time zone"):
        kq.group("t", "naive", start=datetime(2030, 1, 1))
    with pytest.raises(keepq.InvalidArgument, match="1970"):
        kq.group("t", "old", start=datetime(1969, 12, 31, tzinfo=UTC))


def test_a_read_only_store_shows_everything_and_changes_nothing(path: Path) -> None:
    with pytest.raises(keepq.NotFound):
        keepq.open(path, read_only=True)
    with keepq.open(path) as kq:
        bury(kq, b"dead")
        kq.topic("t").send(b"x")
    before = snapshot(path)
    with keepq.open(path, read_only=True) as kq:
        topic, group = kq.topic("t"), kq.group("t", "g")
        assert [m.body for m in topic.browse()][-1] == b"x"
        assert [d.body for d in group.dlq] == [b"dead"]
        assert (len(topic), group.qsize(), kq.verify().ok) == (len(topic), 1, True)
        for change in (
            lambda: topic.send(b"y"),
            lambda: topic.send_async(b"y"),
            lambda: group.receive(timeout=0),
            lambda: group.dlq.purge(),
            lambda: group.configure(lease=1),
            lambda: kq.producer("p"),
        ):
            with pytest.raises(keepq.StorageError) as caught:
                change()
            assert caught.value.code == "KQ-105"
        with pytest.raises(keepq.NotFound):
            kq.topic("new")
    assert snapshot(path) == before


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a store."""
    files = (p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_permissions_are_those_that_were_asked_for(path: Path, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        with keepq.open(path, mode=0o660) as kq:
            kq.topic("t").send(b"x")
    finally:
        os.umask(mask)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in path.rglob("*") if p.is_file()}
    assert modes == {0o660}
    keepq.open(path).close()
    with pytest.raises(keepq.ConfigMismatch):
        keepq.open(path, mode=0o640)
    with pytest.raises(keepq.InvalidArgument):
        keepq.open(tmp_path / "other", mode=0o777)


def test_shared_memory_can_lie_elsewhere(path: Path, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    with keepq.open(path, runtime_dir=runtime) as kq:
        kq.topic("t").send(b"x", flush="async")
        assert list(runtime.iterdir()), "it is there"
        with keepq.open(path) as other:
            assert other.recovery.joined and len(other.topic("t")) == 1
    with pytest.raises(keepq.ConfigMismatch):
        keepq.open(path, runtime_dir=tmp_path)


def test_sizes_are_fixed_when_a_store_is_made(path: Path) -> None:
    keepq.open(path, segment_size=16 << 20, ring_size=1 << 20, slots=1024).close()
    for other in ({"segment_size": 32 << 20}, {"ring_size": 2 << 20}, {"slots": 2048}):
        with pytest.raises(keepq.ConfigMismatch):
            keepq.open(path, **other)  # type: ignore[arg-type]
    with pytest.raises(keepq.InvalidArgument):
        keepq.open(path, send_retries=101)
    with keepq.open(path, send_retries=0, max_in_flight_bytes=1, send_timeout=None) as kq:
        assert kq.topic("t").send(b"x").durable, "a send without a time-out works the same"
        assert kq.topic("t").send_async(b"larger than all room goes alone").result(10).durable


def test_a_memory_file_system_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    place = Path("/dev/shm") / f"keepq-test-{os.getpid()}.kq"
    try:
        with pytest.raises(keepq.StorageError) as caught:
            keepq.open(place)
        assert caught.value.code == "KQ-104" and not place.exists()
        with keepq.open(place, allow_unsafe_filesystem=True) as kq:
            kq.topic("t").send(b"x")
    finally:
        for file in sorted(place.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        if place.exists():
            place.rmdir()
