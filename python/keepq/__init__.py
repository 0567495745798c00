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
    Group,
    Message,
    Producer,
    SendMany,
    SendResult,
    Store,
    Topic,
    __version__,
    open,
)
from ._types import (
    Backoff,
    Finding,
    GroupStats,
    Msg,
    RecoveryReport,
    SendStatus,
    StoreStats,
    TopicStats,
    VerifyReport,
)

__all__ = [
    "AlreadyExists",
    "Backoff",
    "Busy",
    "Closed",
    "ConfigMismatch",
    "CorruptError",
    "DecodeError",
    "Empty",
    "Error",
    "Finding",
    "ForkedHandle",
    "Full",
    "Group",
    "GroupStats",
    "IncompatibleError",
    "InvalidArgument",
    "InvalidName",
    "LeaseLost",
    "LimitExceeded",
    "Message",
    "Msg",
    "NotFound",
    "NotSupported",
    "Producer",
    "ProducerFenced",
    "ProducerGap",
    "RecoveryReport",
    "Reject",
    "Retry",
    "SendError",
    "SendMany",
    "SendResult",
    "SendStatus",
    "StorageError",
    "Store",
    "StoreStats",
    "Timeout",
    "Topic",
    "TopicStats",
    "TransactionError",
    "VerifyReport",
    "__version__",
    "open",
]
