"""Plain data: what is given to the queue and what it tells about itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from array import array
    from mmap import mmap

# Any object with a buffer works; the name for that, collections.abc.Buffer, is newer than 3.11.
BytesLike: TypeAlias = "bytes | bytearray | memoryview | array[int] | array[float] | mmap"
# Seconds, or a timedelta.
Duration: TypeAlias = float | timedelta
Flush: TypeAlias = Literal["sync", "async"]
WhenFull: TypeAlias = Literal["block", "raise"]
PinKind: TypeAlias = Literal["unread", "outstanding", "dead", "kept"]
# An age, bytes, or both.
Retain: TypeAlias = timedelta | int | tuple[timedelta, int]


class SendStatus(enum.Enum):
    """How a send ended. The names are those of RocketMQ."""

    SEND_OK = "SEND_OK"
    """Stored as durably as asked."""
    FLUSH_DISK_TIMEOUT = "FLUSH_DISK_TIMEOUT"
    """Appended, not yet on disk when the time was over: wait with flush, do not send again."""


@dataclass(frozen=True, slots=True)
class Msg:
    """A message for send_many, with the options of send. The body is bytes-like, or what the codec
    of the handle takes."""

    body: Any
    key: str | None = None
    tag: str | None = None
    headers: Mapping[str, BytesLike] | None = None
    order_key: str | None = None
    delay: Duration | None = None
    at: datetime | None = None
    ttl: Duration | None = None
    priority: int | None = None
    dedup_id: str | None = None
    flush: Flush | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a message waits after a failed attempt: first * factor ** (n - 1) seconds, at most
    max, changed by a random part of at most jitter."""

    first: Duration = 1
    factor: float = 2
    max: Duration = 600
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """The options of a group, as they are stored."""

    lease: float
    """Seconds that a message stays with its receiver."""
    max_attempts: int
    """Deliveries until a message becomes a dead letter."""
    backoff: Backoff | Literal["rocketmq"]
    ack_flush: Flush
    """Whether acks are on disk when they return."""
    max_outstanding: int
    """The most messages in flight."""
    tags: tuple[str, ...]
    """The tags of the messages it gets, sorted; empty = every message."""
    ordered: bool
    """Whether one message of each order key is in flight at a time."""


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The options of a topic, as they are stored."""

    max_bytes: int | None
    """The most bytes of bodies that it keeps."""
    max_messages: int | None
    """The most messages that it keeps."""
    when_full: WhenFull
    """What a send does that a limit has no room for."""
    retain_age: float | None
    """Seconds that messages are kept although every group has settled them."""
    retain_bytes: int | None
    """Bytes of the last messages that are kept although every group has settled them."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The store's own options, as they are stored."""

    max_bytes: int | None
    """The most bytes of bodies that all topics keep together."""
    when_full: WhenFull
    """What a send does that the limit has no room for."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A message that keeps a part of the log on disk. Space is given back from the oldest on, so a
    message keeps what lies behind it, too, until it is copied forward."""

    topic: str
    group: str | None
    """The group that needs it; None: the topic has no groups, so all its messages are kept."""
    kind: PinKind
    """Why it is needed: "unread", the group has not come to it; "outstanding", it was delivered and
    is not settled; "dead", it is a dead letter that was not purged; "kept", there are no groups."""
    seq: int
    """Its sequence in the topic; of a dead letter, among the group's dead letters."""
    id: str
    bytes: int
    """Bytes of the log's files that could go at most if it were not needed."""


@dataclass(frozen=True, slots=True)
class TopicStats:
    """Counters of a topic."""

    name: str
    first_seq: int
    """Sequence of the earliest kept message."""
    next_seq: int
    """Sequence the next message gets."""
    groups: int
    kept: tuple[int, int] | None
    """Messages that it keeps and bytes of their bodies, as last counted; None where nothing has a
    limit or is retained."""
    pin: Pin | None
    """What of it keeps most of the log on disk, for one of its groups or those to come."""


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Counters of a group, in messages."""

    topic: str
    name: str
    ready: int
    """Can be received now."""
    in_flight: int
    """Leased to a consumer."""
    delayed: int
    """Waiting for their back-off to end."""
    parked: int
    """Waiting behind another one with the same order key."""
    lag: int
    """Sequences from the cursor to the end of the topic."""
    dead: int
    """Dead letters."""
    cursor: int
    """Sequence of the next message never looked at."""
    oldest_age: float | None
    """Seconds since the oldest message was sent that the group has not settled: the one with the
    lowest sequence. None: there is none, or it cannot be read."""
    consumers: int
    """Opened stores, in all processes, that have the group open."""
    pin: Pin | None
    """What of it keeps most of the log on disk."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters of a store."""

    tail: int
    """Log position after the last record."""
    durable: int
    """Log position below which everything is on disk."""
    disk_bytes: int
    segments: int
    members: int
    """Processes that have the store open."""
    outstanding: int
    """Messages outstanding in all groups."""
    flushes: int
    oneway_failed: int
    """One-way sends of this handle that failed."""
    topics: tuple[TopicStats, ...]
    groups: tuple[GroupStats, ...]
    pin: Pin | None
    """What keeps the oldest part of the log on disk."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect found by verify."""

    file: str
    """Relative to the store."""
    position: int
    """Byte offset in the file."""
    length: int
    """How many bytes; 0 if not known."""
    reason: str
    damage: bool
    """Whether it is damage of what had been durable (else it is only worth knowing)."""
    known: bool
    """Whether a repair has dealt with it: what it took is lost, and its groups are told."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of verify."""

    files: int
    records: int
    messages: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that had been durable is damaged."""
        return not any(finding.damage for finding in self.findings)


@dataclass(frozen=True, slots=True)
class LostMessages:
    """Messages that damage took."""

    topic: str
    first_seq: int
    """The first of their sequences."""
    count: int


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The result of repair."""

    before: VerifyReport
    """What was found before."""
    actions: tuple[str, ...]
    """What was done, or would be, one sentence each; empty: nothing needed repair."""
    lost: tuple[LostMessages, ...]
    """Messages that are gone. Each group that had not settled them is told."""
    lost_state: tuple[str, ...]
    """What else is not known any more: names of topics, where groups stood."""
    quarantined: tuple[str, ...]
    """Copies of damaged files as they were, relative to the store."""
    after: VerifyReport
    """What is found afterwards."""

    @property
    def ok(self) -> bool:
        """Whether the store is in order afterwards."""
        return self.after.ok


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening the store found and did."""

    created: bool
    """The store was made."""
    joined: bool
    """Other processes had it open: nothing to recover."""
    warm: bool
    """Shared memory of this boot was intact and taken over (else the log was scanned)."""
    records: int
    cut_bytes: int
    """Bytes of an unfinished tail that were cut: never confirmed durable."""
    damaged_bytes: int
    end: int
    notes: tuple[str, ...]
    """One sentence per finding."""
