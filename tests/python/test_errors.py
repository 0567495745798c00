"""Exceptions: their classes, what they carry, and that nothing is ignored silently."""

from __future__ import annotations

import pickle
import queue
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest
from keepq import _errors, _keepq


def test_every_code_of_the_engine_has_a_class_and_no_other() -> None:
    assert set(_errors.CLASSES) == set(_keepq.codes())


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (keepq.Empty, (keepq.Error, queue.Empty)),
        (keepq.Full, (keepq.Error, queue.Full)),
        (keepq.Timeout, (keepq.Error, TimeoutError)),
        (keepq.Busy, (keepq.Error,)),
        (keepq.Closed, (keepq.Error,)),
        (keepq.ForkedHandle, (keepq.Closed,)),
        (keepq.SendError, (keepq.Error,)),
        (keepq.StorageError, (keepq.Error, OSError)),
        (keepq.CorruptError, (keepq.Error,)),
        (keepq.IncompatibleError, (keepq.Error,)),
        (keepq.ConfigMismatch, (keepq.Error,)),
        (keepq.LeaseLost, (keepq.Error,)),
        (keepq.ProducerGap, (keepq.Error,)),
        (keepq.ProducerFenced, (keepq.Error,)),
        (keepq.TransactionError, (keepq.Error,)),
        (keepq.DecodeError, (keepq.Error,)),
        (keepq.NotFound, (keepq.Error,)),
        (keepq.InvalidName, (keepq.Error, ValueError)),
        (keepq.LimitExceeded, (keepq.Error, ValueError)),
        (keepq.AlreadyExists, (keepq.Error, FileExistsError)),
        (keepq.NotSupported, (keepq.Error, NotImplementedError)),
        (keepq.Error, (Exception,)),
    ],
)
def test_classes_fit_where_programs_expect_them(cls: type, bases: tuple[type, ...]) -> None:
    assert cls.__bases__ == bases


@pytest.mark.parametrize("number", sorted(_errors.CLASSES))
def test_an_error_carries_what_is_known_and_survives_pickling(number: int) -> None:
    name, retriable = _keepq.codes()[number]
    made = _errors.from_engine(
        number, name, "what and where", retriable, "maybe_stored", Path("/q/log"), 4096, 5
    )
    for error in (made, pickle.loads(pickle.dumps(made))):
        assert type(error) is _errors.CLASSES[number]
        assert (error.code, error.number) == (f"KQ-{number}", number)
        assert (error.name, error.retriable) == (name, retriable)
        assert (error.outcome, error.path, error.position) == ("maybe_stored", "/q/log", 4096)
        assert error.errno == 5
        assert str(error) == f"what and where (KQ-{number}) [maybe_stored]"


def test_errors_have_what_their_class_adds() -> None:
    storage = keepq.StorageError("m", number=201, path="/q", errno=5)
    assert (storage.filename, storage.strerror) == ("/q", "Input/output error")
    corrupt = keepq.CorruptError("bad sum", number=205, path="/q", position=7)
    assert (corrupt.path, corrupt.position, corrupt.reason) == ("/q", 7, "bad sum")
    send = keepq.SendError("late", number=301, outcome="maybe_stored")
    assert send.status is keepq.SendStatus.FLUSH_DISK_TIMEOUT
    assert str(keepq.Empty("nothing")) == "nothing"


def test_a_missing_store_is_not_found_and_not_made(path: Path) -> None:
    with pytest.raises(keepq.NotFound) as caught:
        keepq.open(path, create=False)
    assert caught.value.code == "KQ-102"
    assert caught.value.retriable is False
    assert str(path) in str(caught.value)
    assert not path.exists()


def test_an_existing_store_can_be_refused(path: Path) -> None:
    keepq.open(path, exist_ok=False).close()
    with pytest.raises(FileExistsError) as caught:
        keepq.open(path, exist_ok=False)
    assert isinstance(caught.value, keepq.AlreadyExists)


def test_a_missing_topic_or_group_can_be_refused(kq: keepq.Store) -> None:
    with pytest.raises(keepq.NotFound):
        kq.group("missing", "g", create=False)
    kq.topic("t")
    with pytest.raises(keepq.NotFound):
        kq.group("t", "missing", create=False)
    assert kq.stats().groups == ()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "é", "a b", "x" * 121])
def test_bad_names_are_refused(kq: keepq.Store, name: str) -> None:
    for use in (kq.topic, kq.producer, lambda n: kq.group("t", n), lambda n: kq.group(n, "g")):
        with pytest.raises(keepq.InvalidName) as caught:
            use(name)
        assert isinstance(caught.value, ValueError)


def test_names_that_belong_to_keepq_are_never_made(kq: keepq.Store) -> None:
    # A dead-letter stream can be opened like a topic, but only keepq makes one.
    for find in (kq.topic, lambda n: kq.group(n, "g")):
        with pytest.raises(keepq.NotFound):
            find("%DLQ%a%b")
    for use in (kq.producer, lambda n: kq.group("t", n)):
        with pytest.raises(keepq.InvalidName):
            use("%DLQ%a%b")
    assert kq.stats().topics == ()


def test_limits_are_refused_one_past_them(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send(b"x", key="k" * 255, tag="t" * 255)
    for wrong in (
        {"key": "k" * 256},
        {"tag": "t" * 256},
        {"headers": {"h": bytes(48 << 10)}},
    ):
        with pytest.raises(keepq.LimitExceeded) as caught:
            topic.send(b"x", **wrong)
        assert caught.value.outcome == "not_stored"
    assert len(topic) == 1


def test_a_different_group_option_is_a_mismatch_naming_both(kq: keepq.Store) -> None:
    kq.group("t", "g", lease=10, max_attempts=3)
    kq.group("t", "g")
    kq.group("t", "g", lease=timedelta(seconds=10), max_attempts=3)
    with pytest.raises(keepq.ConfigMismatch) as caught:
        kq.group("t", "g", max_attempts=4)
    assert "3" in str(caught.value) and "4" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 1},
        {"at": datetime(2030, 1, 1)},
        {"ttl": 1},
        {"priority": 0},
        {"dedup_id": "d"},
    ],
    ids=lambda o: next(iter(o)),
)
def test_send_options_of_later_versions_are_refused_by_name(
    kq: keepq.Store, options: dict[str, Any]
) -> None:
    topic = kq.topic("t")
    for send in (
        lambda: topic.send(b"x", **options),
        lambda: topic.send_many([keepq.Msg(b"x", **options)]),
    ):
        with pytest.raises(keepq.NotSupported, match=next(iter(options))):
            send()
    assert len(topic) == 0


def test_other_options_that_there_are_not_are_refused_by_name(kq: keepq.Store) -> None:
    with pytest.raises(keepq.InvalidArgument, match="rocketmq"):
        kq.group("t", "g", backoff="kafka")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rocketmq"):
        kq.group("t", "g", backoff=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kq.group("t", "g", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan"), float("inf"), timedelta(-1)])
def test_impossible_durations_are_refused(kq: keepq.Store, wrong: float) -> None:
    group = kq.group("t", "g")
    for use in (group.receive, kq.flush, lambda d: kq.topic("t").send(b"x", timeout=d)):
        with pytest.raises(ValueError, match="duration"):
            use(wrong)


@pytest.mark.parametrize("wrong", ["1", True, datetime(2030, 1, 1), b"1"])
def test_what_is_no_duration_is_refused(kq: keepq.Store, wrong: Any) -> None:
    with pytest.raises(TypeError):
        kq.group("t", "g").receive(timeout=wrong)


def test_an_unknown_flush_mode_is_refused(kq: keepq.Store, path: Path) -> None:
    for use in (
        lambda: keepq.open(path, flush="never"),  # type: ignore[arg-type]
        lambda: kq.topic("t", flush="never"),  # type: ignore[arg-type]
        lambda: kq.topic("t").send(b"x", flush="never"),  # type: ignore[arg-type]
    ):
        with pytest.raises(keepq.InvalidArgument, match="never"):
            use()


def test_a_closed_store_refuses_everything_made_from_it(path: Path) -> None:
    kq = keepq.open(path)
    topic, group, producer = kq.topic("t"), kq.group("t", "g"), kq.producer("p")
    topic.send(b"x")
    msg = group.receive(timeout=5)
    kq.close()
    kq.close()
    for use in (
        lambda: topic.send(b"x"),
        lambda: group.receive(timeout=0),
        lambda: producer.send("t", b"x"),
        lambda: kq.topic("t"),
        lambda: kq.stats(),
        lambda: kq.flush(),
        msg.ack,
    ):
        with pytest.raises(keepq.Closed):
            use()
    assert msg.body == b"x"
    with pytest.raises(keepq.Closed):
        next(iter(group))
