"""What keepq tells about itself: results, counters, recoveries, damage; and what types it says."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, assert_type

import keepq
import pytest


def test_the_types_are_those_that_are_said(kq: keepq.Store) -> None:
    topic = kq.topic("t", flush="sync", create=True)
    assert_type(topic, keepq.Topic)
    assert_type(topic.send(b"x"), keepq.SendResult)
    assert_type(topic.send(b"x").seq, int | None)
    assert_type(topic.send_async(b"x"), Future[keepq.SendResult])
    many = topic.send_many([b"x", keepq.Msg(b"x", timeout=5)], flush="async", timeout=5)
    assert_type(many, keepq.SendMany)
    assert_type(many.failed, list[tuple[int, keepq.Error]])
    producer = kq.producer("p")
    assert_type(producer, keepq.Producer)
    assert_type(producer.send_many(topic, [b"y"], flush="sync", timeout=None), keepq.SendMany)
    producer.send_oneway(topic, b"z", flush="sync", timeout=5)
    topic.send_oneway(b"z", flush="sync", timeout=None)
    group = kq.group("t", "g")
    assert_type(group, keepq.Group)
    msg = group.receive(timeout=5)
    assert_type(msg, keepq.Message)
    assert_type(group.poll(), keepq.Message | None)
    assert_type(group.receive_batch(1, 0), list[keepq.Message])
    assert_type(msg.headers, dict[str, bytes])
    assert_type(msg.keep_alive(), keepq.KeepAlive)
    with msg.keep_alive() as kept:
        assert_type(kept, keepq.Message)
    for each in group:
        assert_type(each, keepq.Message)
        break
    assert_type(group.dlq, keepq.DeadLetters)
    assert_type(group.dlq.browse(), keepq.Browse[keepq.DeadLetter])
    for letter in group.dlq:
        assert_type(letter, keepq.DeadLetter)
    assert_type(topic.browse(), keepq.Browse[keepq.Browsed])
    assert_type(group.config().backoff, keepq.Backoff | Literal["rocketmq"])
    assert_type(group.stats().oldest_age, float | None)
    assert_type(group.config().lease, float)
    assert_type(group.config().ack_flush, Literal["sync", "async"])
    assert_type(group.stats(), keepq.GroupStats)
    assert_type(kq.stats(), keepq.StoreStats)
    assert_type(kq.stats().topics, tuple[keepq.TopicStats, ...])
    assert_type(kq.recovery, keepq.RecoveryReport)
    assert_type(kq.verify(), keepq.VerifyReport)
    assert_type(kq.verify().findings, tuple[keepq.Finding, ...])


def test_handles_say_what_they_are(kq: keepq.Store, path: Path) -> None:
    topic, group, producer = kq.topic("t"), kq.group("t", "g"), kq.producer("p")
    sent = topic.send_many([b"x", keepq.Msg(b"y", key="k" * 256)])
    assert repr(kq) == f'<keepq.Store "{path}">'
    assert repr(topic) == '<keepq.Topic "t">' and (topic.name, producer.name) == ("t", "p")
    assert repr(group) == '<keepq.Group "g" of "t">' and (group.topic, group.name) == ("t", "g")
    assert repr(producer) == '<keepq.Producer "p">'
    assert repr(sent) == "SendMany(ok=1, failed=1)"
    msg = group.receive(timeout=5)
    assert repr(msg) == f'<keepq.Message {msg.id} of "t", seq 0, attempt 1>'
    group.close()
    kq.close()
    assert repr(group).endswith(", closed>") and repr(kq).endswith(", closed>")


def test_counters_count(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    topic.send_many([b"x"] * 10)
    held = group.receive_batch(3, timeout=5)
    held[0].ack()
    held[1].nack(60)
    stats = group.stats()
    assert (stats.cursor, stats.lag, stats.in_flight, stats.delayed) == (3, 7, 1, 1)
    everything = kq.stats()
    assert everything.outstanding == 2 and everything.members == 1
    assert everything.segments >= 1 and everything.disk_bytes > 0 and everything.flushes > 0
    [of_topic] = everything.topics
    assert (of_topic.name, of_topic.first_seq, of_topic.next_seq) == ("t", 0, 10)
    [of_group] = everything.groups
    assert of_topic.groups == 1
    assert stats.oldest_age is not None and of_group.oldest_age is not None
    assert 0 <= stats.oldest_age <= of_group.oldest_age < 600
    assert dataclasses.replace(of_group, oldest_age=stats.oldest_age) == stats
    assert stats.consumers == 1
    again = kq.group("t", "g")
    with keepq.open(kq.path) as other:
        assert other.group("t", "g").stats().consumers == 2
    assert again.stats().consumers == 1
    assert kq.group("t", "new", start="latest").stats().oldest_age is None


def test_a_recovery_says_what_it_found(path: Path) -> None:
    with keepq.open(path) as kq:
        made = kq.recovery
        assert made.created and not made.joined
        kq.topic("t").send_many([b"x"] * 5)
        with keepq.open(path) as other:
            assert other.recovery.joined and not other.recovery.created
    with keepq.open(path) as kq:
        again = kq.recovery
        assert not (again.created or again.joined)
        assert again.warm and (again.cut_bytes, again.damaged_bytes) == (0, 0)
        assert again.end > 0 and all(isinstance(note, str) for note in again.notes)
    (path / "ctl").unlink()
    with keepq.open(path) as kq:
        cold = kq.recovery
        assert not cold.warm and cold.records >= 5
        assert [m.body for m in kq.topic("t").browse()] == [b"x"] * 5


def test_damage_is_told_where_it_is_met(path: Path) -> None:
    with keepq.open(path) as kq:
        kq.topic("t").send_many([b"before", b"the damaged one", b"after"])
        group = kq.group("t", "g")
        assert group.config().max_attempts == 16
    [segment] = (p for p in (path / "log").iterdir() if b"the damaged one" in p.read_bytes())
    position = segment.read_bytes().index(b"the damaged one")
    with segment.open("r+b") as file:
        file.seek(position)
        file.write(b"The")
        os.fsync(file.fileno())
    with keepq.open(path) as kq:
        report = kq.verify()
        assert not report.ok and report.files > 0 and report.bytes > 0
        found = next(f for f in report.findings if f.damage)
        assert segment.name in found.file and found.reason
        assert found.position <= position <= found.position + max(found.length, 4096)
        before, damaged, after = kq.topic("t").browse()
        assert (before.body, after.body) == (b"before", b"after")
        assert isinstance(damaged.damage, keepq.CorruptError) and "damaged" in repr(damaged)
        for member in ("body", "id", "key", "tag", "headers", "sent_at", "producer", "value"):
            with pytest.raises(keepq.CorruptError):
                getattr(damaged, member)
        group = kq.group("t", "g")
        got: list[bytes] = []
        told: list[keepq.CorruptError] = []
        while len(got) + len(told) < 3:
            try:
                msg = group.receive(timeout=5)
            except keepq.CorruptError as error:
                told.append(error)
            else:
                got.append(msg.body)
                msg.ack()
        assert got == [b"before", b"after"]
        assert told[0].reason == told[0].message and told[0].position is not None


def test_flush_intervals_and_codecs_belong_to_the_handle(path: Path) -> None:
    with keepq.open(path, flush_interval=0.001, codec="str") as kq:
        kq.topic("t", codec="json").send([1], flush="async")
        kq.topic("t").send("text", flush="async")
        kq.flush(timeout=10)
        values = [m.value for m in kq.group("t", "g", codec="json").receive_batch(2, timeout=5)]
        assert values == [[1], "text"]
