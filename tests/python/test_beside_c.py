"""The C library beside the Python module in one process, on one store: two copies of the engine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import keepq
import pytest

ROOT = Path(__file__).resolve().parents[2]


def c_library() -> ctypes.CDLL:
    """The C library: KEEPQ_C_LIBRARY, or what cargo has built last."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    places = [target / kind / "libkeepq.so" for kind in ("c/prefix/lib", "release", "debug")]
    named = os.environ.get("KEEPQ_C_LIBRARY")
    found = [named] if named else [str(place) for place in places if place.exists()]
    if not found:
        pytest.fail("there is no C library: cargo build -p keepq-c")
    library = ctypes.CDLL(found[0])
    for name in ("close", "group_close", "msg_free", "ack"):
        getattr(library, f"keepq_{name}").argtypes = [ctypes.c_void_p]
    library.keepq_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    library.keepq_send.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    library.keepq_group_open.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    library.keepq_receive.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    library.keepq_msg_key.argtypes = [ctypes.c_void_p]
    library.keepq_msg_key.restype = ctypes.c_char_p
    return library


def test_both_send_to_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    c = c_library()
    store, group, message = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    with keepq.open(path) as kq:
        assert c.keepq_open(path.encode(), None, ctypes.byref(store)) == 0
        orders = kq.topic("orders")
        mail = kq.group("orders", "mail")
        assert c.keepq_group_open(store, b"orders", b"billing", None, ctypes.byref(group)) == 0
        for n in range(100):
            assert c.keepq_send(store, b"orders", b"from C", 6, None, None) == 0
            orders.send(b"from Python", key=str(n))
        keys = []
        for _ in range(200):
            assert c.keepq_receive(group, 10_000, ctypes.byref(message)) == 0
            keys.append(c.keepq_msg_key(message))
            assert c.keepq_ack(message) == 0
            assert c.keepq_msg_free(message) == 0
        assert keys == [key for n in range(100) for key in (None, str(n).encode())]
        bodies = []
        for _ in range(200):
            msg = mail.receive(timeout=10)
            bodies.append(msg.body)
            msg.ack()
        assert bodies == [b"from C", b"from Python"] * 100
        # Each is a member of its own: when one has closed, the other goes on.
        assert c.keepq_group_close(group) == 0
        assert c.keepq_close(store) == 0
        assert orders.send(b"after the close").durable
