# Types of the native module. mypy's stubtest compares them with it.
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import GenericAlias, TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, final

from typing_extensions import disjoint_base

from ._codecs import CodecName
from ._errors import Error
from ._types import (
    Backoff,
    BytesLike,
    Duration,
    Flush,
    GroupConfig,
    GroupStats,
    RecoveryReport,
    RepairReport,
    Retain,
    SendStatus,
    StoreConfig,
    StoreStats,
    TopicConfig,
    VerifyReport,
    WhenFull,
)

__all__ = [
    "Browse",
    "Browsed",
    "DeadLetter",
    "DeadLetters",
    "Group",
    "KeepAlive",
    "Message",
    "Producer",
    "SendMany",
    "SendResult",
    "Store",
    "Topic",
    "__version__",
    "cli_main",
    "codes",
    "open",
    "repair",
]

__version__: str

_Item = TypeVar("_Item", bound=Browsed, covariant=True)

def open(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    exist_ok: bool = True,
    flush: Flush | None = ...,
    mode: int | None = ...,
    read_only: bool = False,
    runtime_dir: str | os.PathLike[str] | None = None,
    send_timeout: Duration | None = ...,
    send_retries: int | None = ...,
    max_in_flight: int | None = ...,
    max_in_flight_bytes: int | None = ...,
    flush_interval: Duration | None = ...,
    segment_size: int | None = None,
    ring_size: int | None = None,
    slots: int | None = None,
    allow_unsafe_filesystem: bool = False,
    codec: CodecName | None = None,
    max_bytes: int | None = None,
    when_full: WhenFull | None = None,
) -> Store: ...
def repair(
    path: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> RepairReport: ...
def cli_main(argv: Sequence[str]) -> int: ...
def codes() -> dict[int, tuple[str, bool]]: ...

@final
class Store:
    @property
    def path(self) -> Path: ...
    @property
    def recovery(self) -> RecoveryReport: ...
    def topic(
        self,
        name: str,
        *,
        flush: Flush | None = None,
        codec: CodecName | None = None,
        create: bool = True,
        retain: Retain | None = None,
        max_bytes: int | None = None,
        max_messages: int | None = None,
        when_full: WhenFull | None = None,
    ) -> Topic: ...
    def group(
        self,
        topic: str,
        name: str,
        *,
        lease: Duration | None = None,
        max_attempts: int | None = None,
        ack_flush: Flush | None = None,
        backoff: Backoff | Literal["rocketmq"] | None = None,
        start: Literal["earliest", "latest"] | int | datetime | None = None,
        codec: CodecName | None = None,
        create: bool = True,
        tags: Sequence[str] | None = None,
        ordered: bool | None = None,
        broadcast: str | bool | None = None,
        max_outstanding: int | None = None,
    ) -> Group: ...
    def producer(self, name: str) -> Producer: ...
    def flush(self, timeout: Duration | None = None) -> None: ...
    def config(self) -> StoreConfig: ...
    def configure(
        self, *, max_bytes: int | None = ..., when_full: WhenFull | None = None
    ) -> StoreConfig: ...
    def stats(self) -> StoreStats: ...
    def verify(self) -> VerifyReport: ...
    def find(self, id: str) -> Browsed | None: ...
    def ack(self, receipt: str) -> None: ...
    def ack_many(self, messages: Sequence[Message]) -> None: ...
    def nack(self, receipt: str, delay: Duration | None = None) -> None: ...
    def reject(self, receipt: str, reason: str) -> None: ...
    def extend(self, receipt: str, lease: Duration) -> None: ...
    def close(self) -> None: ...
    @property
    def _send_timeout(self) -> float | None: ...
    def _forked(self) -> tuple[Error, list[Any]]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None: ...

@final
class Topic:
    @property
    def name(self) -> str: ...
    def send(
        self,
        body: Any,
        *,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        delay: None = None,
        at: None = None,
        ttl: None = None,
        priority: None = None,
        dedup_id: None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
    ) -> SendResult: ...
    def send_async(
        self,
        body: Any,
        *,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        delay: None = None,
        at: None = None,
        ttl: None = None,
        priority: None = None,
        dedup_id: None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
        when_full: WhenFull | None = ...,
        on_success: Callable[[SendResult], object] | None = None,
        on_exception: Callable[[Error], object] | None = None,
    ) -> Future[SendResult]: ...
    def send_oneway(
        self,
        body: Any,
        *,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        delay: None = None,
        at: None = None,
        ttl: None = None,
        priority: None = None,
        dedup_id: None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
        when_full: WhenFull | None = ...,
    ) -> None: ...
    def send_many(
        self,
        messages: Iterable[Any],
        *,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
    ) -> SendMany: ...
    def browse(
        self,
        *,
        start: Literal["earliest"] | int | None = None,
        last: int | None = None,
        limit: int | None = None,
        key: None = None,
    ) -> Browse[Browsed]: ...
    def config(self) -> TopicConfig: ...
    def configure(
        self,
        *,
        max_bytes: int | None = ...,
        max_messages: int | None = ...,
        when_full: WhenFull | None = None,
        retain: Retain | None = ...,
    ) -> TopicConfig: ...
    def purge(self) -> int: ...
    def delete(self) -> None: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...

@final
class Producer:
    @property
    def name(self) -> str: ...
    @property
    def next_seq(self) -> int: ...
    def send(
        self,
        topic: str | Topic,
        body: Any,
        *,
        seq: int | None = None,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
    ) -> SendResult: ...
    def send_async(
        self,
        topic: str | Topic,
        body: Any,
        *,
        seq: int | None = None,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
        when_full: WhenFull | None = ...,
        on_success: Callable[[SendResult], object] | None = None,
        on_exception: Callable[[Error], object] | None = None,
    ) -> Future[SendResult]: ...
    def send_oneway(
        self,
        topic: str | Topic,
        body: Any,
        *,
        seq: int | None = None,
        key: str | None = None,
        tag: str | None = None,
        headers: Mapping[str, BytesLike] | None = None,
        order_key: str | None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
        when_full: WhenFull | None = ...,
    ) -> None: ...
    def send_many(
        self,
        topic: str | Topic,
        messages: Iterable[Any],
        *,
        first: int | None = None,
        flush: Flush | None = None,
        timeout: Duration | None = ...,
    ) -> SendMany: ...

@final
class SendResult:
    def __new__(
        cls,
        id: str,
        seq: int | None,
        status: SendStatus,
        durable: bool,
        duplicate: bool,
    ) -> Self: ...
    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int | None: ...
    @property
    def status(self) -> SendStatus: ...
    @property
    def durable(self) -> bool: ...
    @property
    def duplicate(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class SendMany:
    @property
    def ok(self) -> list[SendResult]: ...
    @property
    def failed(self) -> list[tuple[int, Error]]: ...
    def __len__(self) -> int: ...

@final
class Group:
    @property
    def name(self) -> str: ...
    @property
    def topic(self) -> str: ...
    def receive(self, timeout: Duration | None = None, *, detached: bool = False) -> Message: ...
    def poll(self, *, detached: bool = False) -> Message | None: ...
    def receive_batch(
        self, max: int, timeout: Duration | None = None, *, detached: bool = False
    ) -> list[Message]: ...
    def fileno(self) -> int: ...
    def ack_many(self, messages: Sequence[Message]) -> None: ...
    @property
    def dlq(self) -> DeadLetters: ...
    def config(self) -> GroupConfig: ...
    def configure(
        self,
        *,
        lease: Duration | None = None,
        max_attempts: int | None = None,
        ack_flush: Flush | None = None,
        backoff: Backoff | Literal["rocketmq"] | None = None,
        tags: Sequence[str] | None = None,
        max_outstanding: int | None = None,
    ) -> GroupConfig: ...
    def delete(self) -> None: ...
    def stats(self) -> GroupStats: ...
    def qsize(self) -> int: ...
    def close(self) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Message: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None: ...

@final
class Message:
    @property
    def body(self) -> bytes: ...
    @property
    def value(self) -> Any: ...
    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def tag(self) -> str | None: ...
    @property
    def order_key(self) -> str | None: ...
    @property
    def headers(self) -> dict[str, bytes]: ...
    @property
    def attempt(self) -> int: ...
    @property
    def sent_at(self) -> datetime: ...
    @property
    def producer(self) -> str | None: ...
    @property
    def producer_seq(self) -> int | None: ...
    @property
    def receipt(self) -> str: ...
    def ack(self, *, flush: Flush | None = None) -> None: ...
    def nack(self, delay: Duration | None = None) -> None: ...
    def reject(self, reason: str) -> None: ...
    def extend(self, lease: Duration) -> None: ...
    def keep_alive(self, lease: Duration | None = None) -> KeepAlive: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...

@final
class KeepAlive:
    def __enter__(self) -> Message: ...
    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...

@disjoint_base
class Browsed:
    @property
    def body(self) -> bytes: ...
    @property
    def value(self) -> Any: ...
    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def tag(self) -> str | None: ...
    @property
    def order_key(self) -> str | None: ...
    @property
    def headers(self) -> dict[str, bytes]: ...
    @property
    def sent_at(self) -> datetime: ...
    @property
    def producer(self) -> str | None: ...
    @property
    def producer_seq(self) -> int | None: ...
    @property
    def damage(self) -> Error | None: ...

@final
class DeadLetter(Browsed):
    @property
    def topic_seq(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def rejected(self) -> bool: ...
    @property
    def dead_at(self) -> datetime: ...

@final
class DeadLetters:
    def browse(self, limit: int | None = None, *, start: int = 0) -> Browse[DeadLetter]: ...
    def get(self, id: str) -> DeadLetter | None: ...
    def purge(self, which: DeadLetter | str | None = None) -> int: ...
    def __iter__(self) -> Browse[DeadLetter]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...

@final
class Browse(Generic[_Item]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _Item: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
