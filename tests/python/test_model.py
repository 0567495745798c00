"""A store against a model: whatever calls are made, every message is somewhere, and only once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

import keepq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

BODIES = st.binary(max_size=40)
KEYS = st.none() | st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
Flush: TypeAlias = Literal["sync", "async"] | None
FLUSHES: st.SearchStrategy[Flush] = st.sampled_from([None, "sync", "async"])
MAX_ATTEMPTS = 3


class Model:
    """What a group should be: where each message is, by its sequence."""

    def __init__(self) -> None:
        self.ready: set[int] = set()
        self.held: dict[int, keepq.Message] = {}
        self.detached: dict[int, str] = {}
        self.attempts: dict[int, int] = {}
        self.dead: set[int] = set()
        self.done: set[int] = set()

    def back(self, seq: int) -> None:
        """A message comes back after a failed attempt."""
        (self.dead if self.attempts[seq] >= MAX_ATTEMPTS else self.ready).add(seq)


class Machine(RuleBasedStateMachine):
    """Two handles of one store, and what they do to it."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="keepq-model-")
        self.path = Path(self.place.name) / "model.kq"
        self.sent: list[tuple[bytes, str | None]] = []
        self.model = Model()
        self.open()

    def open(self) -> None:
        self.kq = keepq.open(self.path)
        self.topic = self.kq.topic("t")
        self.group = self.kq.group("t", "g", max_attempts=MAX_ATTEMPTS, lease=600)

    def teardown(self) -> None:
        self.kq.close()
        self.place.cleanup()

    def note(self, body: bytes, key: str | None, result: keepq.SendResult) -> None:
        assert result.seq == len(self.sent)
        self.model.ready.add(len(self.sent))
        self.sent.append((body, key))

    @rule(body=BODIES, key=KEYS, flush=FLUSHES)
    def send(self, body: bytes, key: str | None, flush: Flush) -> None:
        self.note(body, key, self.topic.send(body, key=key, flush=flush))

    @rule(bodies=st.lists(BODIES, max_size=5), key=KEYS)
    def send_many(self, bodies: list[bytes], key: str | None) -> None:
        result = self.topic.send_many([keepq.Msg(body, key=key) for body in bodies])
        assert result.failed == []
        for body, one in zip(bodies, result.ok, strict=True):
            self.note(body, key, one)

    @rule(bodies=st.lists(BODIES, max_size=5))
    def send_async(self, bodies: list[bytes]) -> None:
        futures = [self.topic.send_async(body) for body in bodies]
        for body, future in zip(bodies, futures, strict=True):
            self.note(body, None, future.result(timeout=30))

    @rule(target=held, most=st.integers(1, 4), detached=st.booleans())
    def receive(self, most: int, detached: bool) -> tuple[int, ...]:
        self.kq.flush()  # What was sent without waiting for the disk can be received from now on.
        got = self.group.receive_batch(most, timeout=0, detached=detached)
        # At least one where there is any; a batch never waits for more.
        assert bool(got) == bool(self.model.ready) and len(got) <= most
        for msg in got:
            assert msg.seq in self.model.ready
            self.model.ready.remove(msg.seq)
            assert (msg.body, msg.key) == self.sent[msg.seq]
            attempts = self.model.attempts.get(msg.seq, 0) + 1
            assert msg.attempt == attempts
            self.model.attempts[msg.seq] = attempts
            if detached:
                self.model.detached[msg.seq] = msg.receipt
            else:
                self.model.held[msg.seq] = msg
        return tuple(msg.seq for msg in got)

    @rule(seqs=held)
    def ack(self, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            msg = self.model.held.pop(seq, None)
            if msg is not None:
                msg.ack()
                self.model.done.add(seq)

    @rule(seqs=held)
    def ack_many(self, seqs: tuple[int, ...]) -> None:
        messages = [self.model.held.pop(seq) for seq in seqs if seq in self.model.held]
        self.group.ack_many(messages)
        self.model.done.update(msg.seq for msg in messages)

    @rule(seqs=held)
    def nack(self, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            msg = self.model.held.pop(seq, None)
            if msg is not None:
                msg.nack(0)
                self.model.back(seq)

    @rule(seqs=held)
    def drop(self, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            if self.model.held.pop(seq, None) is not None:
                self.model.back(seq)

    @rule(seqs=held)
    def reject(self, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            msg = self.model.held.pop(seq, None)
            if msg is not None:
                msg.reject("by the model")
                self.model.dead.add(seq)

    @rule(seqs=held, way=st.sampled_from(["ack", "nack", "reject", "extend"]))
    def settle_by_receipt(self, seqs: tuple[int, ...], way: str) -> None:
        for seq in seqs:
            receipt = self.model.detached.get(seq)
            if receipt is None:
                continue
            if way == "extend":
                self.kq.extend(receipt, 60)
                continue
            del self.model.detached[seq]
            if way == "ack":
                self.kq.ack(receipt)
                self.model.done.add(seq)
            elif way == "nack":
                self.kq.nack(receipt, 0)
                self.model.back(seq)
            else:
                self.kq.reject(receipt, "by receipt")
                self.model.dead.add(seq)

    @rule()
    def purge(self) -> None:
        # The last attempt of a message is used up when somebody looks for one.
        looked = self.group.poll()
        if looked is not None:
            self.model.ready.remove(looked.seq)
            self.model.attempts[looked.seq] = looked.attempt
            looked.ack()
            self.model.done.add(looked.seq)
        assert self.group.dlq.purge() == len(self.model.dead)
        self.model.done |= self.model.dead
        self.model.dead.clear()

    @rule()
    def reopen(self) -> None:
        self.kq.close()
        for seq in list(self.model.held):
            del self.model.held[seq]
            self.model.back(seq)
        # Detached leases stay as long as shared memory does; nobody has it here any more.
        self.open()

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        stats = self.group.stats()
        assert stats.in_flight == len(self.model.held) + len(self.model.detached)
        assert stats.delayed == 0
        assert stats.ready + stats.dead == len(self.model.ready) + len(self.model.dead)
        assert {d.topic_seq for d in self.group.dlq} <= self.model.dead

    @rule()
    def browse(self) -> None:
        self.kq.flush()
        for found in self.topic.browse(last=5):
            assert (found.body, found.key) == self.sent[found.seq]


TestModel = Machine.TestCase
TestModel.settings = settings(settings.default, max_examples=12, stateful_step_count=20)
