"""The exceptions, and the table from the engine's numbers to them.

They are Python classes because the stable ABI cannot subclass native exceptions. The numbers, names
and sentences are the engine's.
"""

from __future__ import annotations

import os
import queue

# What type checkers take for true. To import typing would cost every start.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from ._types import Duration, SendStatus


class Error(Exception):
    """Base of all keepq errors.

    code: the stable code, like "KQ-205"; None for Empty. number: the same as an int. name: the
    stable name, like "Corrupt". retriable: whether the same call, made again later, may succeed
    without anything being repaired. outcome: for sends "not_stored", "maybe_stored" or "stored".
    path, position, errno: where it happened, as far as known.
    """

    code: str | None
    number: int | None
    name: str
    retriable: bool
    outcome: str | None
    path: str | None
    position: int | None
    errno: int | None

    def __init__(
        self,
        message: str = "",
        *,
        number: int | None = None,
        name: str | None = None,
        retriable: bool = False,
        outcome: str | None = None,
        path: str | None = None,
        position: int | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.number = number
        self.code = None if number is None else f"KQ-{number}"
        self.name = name or type(self).__name__
        self.retriable = retriable
        self.outcome = outcome
        self.path = path
        self.position = position
        self.errno = errno

    def __str__(self) -> str:
        text = self.message if self.code is None else f"{self.message} ({self.code})"
        return text if self.outcome is None else f"{text} [{self.outcome}]"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = ("number", "name", "retriable", "outcome", "path", "position", "errno")
        return _rebuild, (type(self), self.message, {name: getattr(self, name) for name in fields})


class Empty(Error, queue.Empty):
    """No message came within the time."""


class Full(Error, queue.Full):
    """The disk, a quota or a table of the store is full."""


class Timeout(Error, TimeoutError):
    """The time was over before the work was done."""


class Busy(Error):
    """Another live process holds what the call needs."""


class Closed(Error):
    """The handle was closed."""


class ForkedHandle(Closed):
    """The handle came from the parent process, before a fork."""


class SendError(Error):
    """A message was appended, but not confirmed as asked; see .outcome and .status."""

    @property
    def status(self) -> SendStatus:
        """How the send ended."""
        from ._types import SendStatus

        return SendStatus.FLUSH_DISK_TIMEOUT


class StorageError(Error, OSError):
    """An operating-system call on the store's files failed, or they are not usable."""

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.filename = self.path
        self.strerror = None if self.errno is None else os.strerror(self.errno)


class AlreadyExists(Error, FileExistsError):
    """exist_ok=False was asked and the store is there already."""


class CorruptError(Error):
    """Stored bytes are damaged: .path, .position and .reason say which and how."""

    @property
    def reason(self) -> str:
        """What is wrong with them."""
        return self.message


class IncompatibleError(Error):
    """Not a keepq store, or one of a version this library cannot work with."""


class ConfigMismatch(Error):
    """An explicit option differs from what the store, topic or group was made with."""


class LeaseLost(Error):
    """The lease had ended: the message was or will be delivered again, or is settled already."""


class ProducerGap(Error):
    """A named producer skipped a sequence number."""


class ProducerFenced(Error):
    """The producer's name was opened again elsewhere."""


class TransactionError(Error):
    """A transaction was used after its end, or aborted."""


class DecodeError(Error):
    """The body does not decode as its content type says."""


class NotFound(Error):
    """There is no such store, topic, group or message."""


class InvalidName(Error, ValueError):
    """A name is empty, too long, or has a character that is not allowed."""


class LimitExceeded(Error, ValueError):
    """A body, header, batch or table is over its documented limit."""


class InvalidArgument(Error, ValueError):
    """An argument makes no sense here: an unknown value, or not a receipt of this store."""


class NotSupported(Error, NotImplementedError):
    """The feature is named by the interface but not part of this version."""


class Retry(Exception):
    """Raised by a handler, or in a `with msg:` block: deliver the message again after delay (None =
    the group's back-off)."""

    def __init__(self, delay: Duration | None = None) -> None:
        super().__init__(delay)
        self.delay = delay


class Reject(Exception):
    """Raised by a handler, or in a `with msg:` block: make the message a dead letter."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


# What each number of the engine is here. The tests compare the keys with the engine's own list.
CLASSES: dict[int, type[Error]] = {
    101: IncompatibleError,  # NotAStore
    102: NotFound,
    103: IncompatibleError,
    104: StorageError,  # UnsupportedFilesystem
    105: StorageError,  # ReadOnly
    106: Busy,
    107: AlreadyExists,
    201: StorageError,
    202: Full,
    203: StorageError,  # Failed
    205: CorruptError,
    206: StorageError,  # StoreGone
    301: SendError,  # FlushTimeout
    302: Timeout,
    303: ProducerGap,
    304: ProducerFenced,
    401: LeaseLost,
    402: InvalidArgument,  # BadReceipt
    501: InvalidName,
    502: LimitExceeded,
    503: InvalidArgument,
    504: ConfigMismatch,
    505: DecodeError,
    506: TransactionError,
    601: Closed,
    602: ForkedHandle,
    603: Error,  # BadHandle
    604: Error,  # Internal
    605: NotSupported,
    606: Error,  # Interrupted
}


def from_engine(
    number: int,
    name: str,
    message: str,
    retriable: bool,
    outcome: str | None,
    path: str | os.PathLike[str] | None,
    position: int | None,
    errno: int | None,
) -> Error:
    """The exception for an error of the engine. Called by the native module."""
    return CLASSES.get(number, Error)(
        message,
        number=number,
        name=name,
        retriable=retriable,
        outcome=outcome,
        path=None if path is None else os.fspath(path),
        position=position,
        errno=errno,
    )


def _rebuild(cls: type[Error], message: str, fields: dict[str, Any]) -> Error:
    return cls(message, **fields)
