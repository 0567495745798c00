"""A durable message queue in a library: a directory is the queue, no server.

    import keepq

    with keepq.open("shop.kq") as kq:
        kq.topic("orders").send(b"hello")
        msg = kq.group("orders", "billing").receive(timeout=5)
        print(msg.body)
        msg.ack()

Any number of processes use the directory at the same time. A message is on disk when send returns,
and is delivered to every group until that group acknowledges it.
"""

from . import _interpreter as _interpreter  # isort: skip  # It comes first.
from ._errors import (
    AlreadyExists,
    Busy,
    Closed,
    ConfigMismatch,
    CorruptError,
    DecodeError,
    Empty,
    Error,
    ForkedHandle,
    Full,
    IncompatibleError,
    InvalidArgument,
    InvalidName,
    LeaseLost,
    LimitExceeded,
    NotFound,
    NotSupported,
    ProducerFenced,
    ProducerGap,
    Reject,
    Retry,
    SendError,
    StorageError,
    Timeout,
    TransactionError,
)
from ._keepq import (
    Browse,
    Browsed,
    DeadLetter,
    DeadLetters,
    Group,
    KeepAlive,
    Message,
    Producer,
    SendMany,
    SendResult,
    Store,
    Topic,
    __version__,
    open,
    repair,
)
# What type checkers take for true. To import typing would cost every start.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from . import aio as aio
    from ._queue import Queue as Queue
    from ._queue import ShutDown as ShutDown
    from ._runner import RETRY_LATER as RETRY_LATER
    from ._runner import SUCCESS as SUCCESS
    from ._runner import ConsumeStatus as ConsumeStatus
    from ._types import Backoff as Backoff
    from ._types import Finding as Finding
    from ._types import GroupConfig as GroupConfig
    from ._types import GroupStats as GroupStats
    from ._types import LostMessages as LostMessages
    from ._types import Msg as Msg
    from ._types import Pin as Pin
    from ._types import RecoveryReport as RecoveryReport
    from ._types import RepairReport as RepairReport
    from ._types import SendStatus as SendStatus
    from ._types import StoreConfig as StoreConfig
    from ._types import StoreStats as StoreStats
    from ._types import TopicConfig as TopicConfig
    from ._types import TopicStats as TopicStats
    from ._types import VerifyReport as VerifyReport
    from ._worker import Worker as Worker

# Loaded by the first use: most programs use few of them, and every start would pay for all.
_LATER = {
    "Backoff": "_types",
    "ConsumeStatus": "_runner",
    "Finding": "_types",
    "GroupConfig": "_types",
    "GroupStats": "_types",
    "LostMessages": "_types",
    "Msg": "_types",
    "Pin": "_types",
    "Queue": "_queue",
    "RETRY_LATER": "_runner",
    "RecoveryReport": "_types",
    "RepairReport": "_types",
    "SUCCESS": "_runner",
    "SendStatus": "_types",
    "ShutDown": "_queue",
    "StoreConfig": "_types",
    "StoreStats": "_types",
    "TopicConfig": "_types",
    "TopicStats": "_types",
    "VerifyReport": "_types",
    "Worker": "_worker",
}

__all__ = [
    "RETRY_LATER",
    "SUCCESS",
    "AlreadyExists",
    "Backoff",
    "Browse",
    "Browsed",
    "Busy",
    "Closed",
    "ConfigMismatch",
    "ConsumeStatus",
    "CorruptError",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "Empty",
    "Error",
    "Finding",
    "ForkedHandle",
    "Full",
    "Group",
    "GroupConfig",
    "GroupStats",
    "IncompatibleError",
    "InvalidArgument",
    "InvalidName",
    "KeepAlive",
    "LeaseLost",
    "LimitExceeded",
    "LostMessages",
    "Message",
    "Msg",
    "NotFound",
    "NotSupported",
    "Pin",
    "Producer",
    "ProducerFenced",
    "ProducerGap",
    "Queue",
    "RecoveryReport",
    "Reject",
    "RepairReport",
    "Retry",
    "SendError",
    "SendMany",
    "SendResult",
    "SendStatus",
    "ShutDown",
    "StorageError",
    "Store",
    "StoreConfig",
    "StoreStats",
    "Timeout",
    "Topic",
    "TopicConfig",
    "TopicStats",
    "TransactionError",
    "VerifyReport",
    "Worker",
    "__version__",
    "open",
    "repair",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "aio":
        return import_module(".aio", __name__)
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'keepq' has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
