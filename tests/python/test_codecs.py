"""Codecs: values go in and come out, by the content type; what does not decode loses nothing."""

from __future__ import annotations

import json
import math
import pickle
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keepq import _codecs

JSON = b"application/json"

# What JSON can express: text without lone surrogates, numbers that are numbers.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)
# What msgpack can express besides: bytes, keys that are numbers, times; but no huge numbers.
PACKED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary()
    | st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT | st.integers(0, 2**32), inner),
    max_leaves=20,
)


def sent(name: str, value: object) -> tuple[bytes, dict[str, bytes]]:
    """What a message with this value is, as it arrives."""
    body, headers = _codecs.encode(name, value, None)
    assert type(body) is bytes and headers is not None
    return body, {key: bytes(header) for key, header in headers.items()}


@given(VALUES)
def test_json_comes_back_as_it_was(value: object) -> None:
    body, headers = sent("json", value)
    assert json.loads(body) == value
    assert headers == {"content-type": JSON}
    # By the header alone, whatever the reader's codec is.
    for name in (None, "json", "str", "msgpack", "pickle"):
        assert _codecs.value(name, body, headers, "m") == value
    # By the reader's codec alone.
    assert _codecs.value("json", body, {}, "m") == value


@given(PACKED)
def test_msgpack_comes_back_as_it_was(value: object) -> None:
    body, headers = sent("msgpack", value)
    assert headers == {"content-type": b"application/vnd.msgpack"}
    assert _codecs.value(None, body, headers, "m") == value
    assert _codecs.value("msgpack", body, {}, "m") == value


@given(TEXT)
def test_str_comes_back_as_it_was(value: str) -> None:
    body, headers = sent("str", value)
    assert body == value.encode()
    assert headers == {"content-type": b"text/plain; charset=utf-8"}
    assert _codecs.value(None, body, headers, "m") == value
    assert _codecs.value("str", body, {}, "m") == value


@given(st.binary(max_size=200), st.sampled_from(["json", "msgpack", "str", "pickle"]))
def test_any_bytes_decode_or_raise_the_one_error(body: bytes, name: str) -> None:
    if name == "pickle":
        body = b"\x80" + body  # A pickle of random bytes does nothing, and seldom is one.
    try:
        _codecs.value(name, body, {}, "message 1")
    except keepq.DecodeError as error:
        assert error.code == "KQ-505" and not error.retriable
        assert str(error).startswith("message 1 does not decode as ")
        assert error.__cause__ is not None


def test_bytes_stay_bytes_without_a_codec_and_a_content_type() -> None:
    for body in (b"x", bytearray(b"x"), memoryview(b"x")):
        given_headers = {"a": b"b"}
        assert _codecs.encode(None, body, given_headers) == (body, given_headers)
        assert _codecs.encode(None, body, None) == (body, None)
    assert _codecs.value(None, b"x", {}, "m") == b"x"
    assert _codecs.value(None, b"x", {"content-type": b"image/png"}, "m") == b"x"


def test_a_pickle_is_read_only_where_pickle_is_named() -> None:
    body, headers = sent("pickle", {1: (2, timedelta(3))})
    assert _codecs.value("pickle", body, headers, "m") == {1: (2, timedelta(3))}
    for name in (None, "json", "msgpack", "str"):
        with pytest.raises(keepq.DecodeError, match="only handles with codec='pickle' read"):
            _codecs.value(name, body, headers, "m")


def test_pickles_that_raise_anything_are_decode_errors() -> None:
    for body in (b"", b"garbage", pickle.dumps(math.sqrt).replace(b"sqrt", b"nope")):
        with pytest.raises(keepq.DecodeError):
            _codecs.value("pickle", body, {}, "m")


@pytest.mark.parametrize(
    "said",
    [
        b"application/json",
        b"Application/JSON; charset=utf-8",
        b"text/json",
        b"application/vnd.shop.order+json",
        b" application/json ",
    ],
)
def test_json_has_several_names(said: bytes) -> None:
    assert _codecs.value(None, b"[1]", {"content-type": said}, "m") == [1]
    assert _codecs.value("str", b"[1]", {"Content-Type": said}, "m") == [1]


def test_a_text_may_name_its_charset() -> None:
    for charset, body in ((b"ISO-8859-1", b"\xe9"), (b'"utf-8"', "é".encode()), (b"ascii", b"e")):
        said = {"content-type": b"text/plain; charset=" + charset}
        assert _codecs.value(None, body, said, "m") in {"é", "e"}
    for charset in (b"zip", b"idna", b"unheard-of"):
        with pytest.raises(keepq.DecodeError, match="charset"):
            _codecs.value(None, b"x", {"content-type": b"text/plain;charset=" + charset}, "m")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000, b"[1] [2]", "[1]".encode("utf-16")],
    ids=["empty", "cut", "no UTF-8", "deep", "long number", "two values", "UTF-16"],
)
def test_what_is_no_json_says_what_is_wrong(body: bytes) -> None:
    with pytest.raises(keepq.DecodeError, match=r"^m does not decode as application/json: ") as e:
        _codecs.value("json", body, {}, "m")
    assert "its bytes are in .body" in str(e.value)


def test_a_reader_with_a_codec_refuses_types_that_it_does_not_know() -> None:
    with pytest.raises(keepq.DecodeError, match="m is image/png, which the codec 'json'"):
        _codecs.value("json", b"x", {"content-type": b"image/png"}, "m")
    with pytest.raises(keepq.DecodeError):
        _codecs.value("json", b"x", {"content-type": b"\xff\xfe"}, "m")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("json", b"bytes", TypeError),
        ("json", object(), TypeError),
        ("json", float("nan"), ValueError),
        ("json", "\ud800", ValueError),
        ("msgpack", object(), TypeError),
        ("msgpack", 2**64, ValueError),
        ("str", b"bytes", TypeError),
        ("str", 1, TypeError),
        ("str", "\ud800", ValueError),
    ],
)
def test_what_a_codec_cannot_express_is_refused(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        _codecs.encode(name, value, None)


def test_endless_values_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for name in ("json", "msgpack"):
        with pytest.raises(ValueError):
            _codecs.encode(name, endless, None)


def test_headers_stay_and_a_content_type_must_fit() -> None:
    own = {"a": b"b", "Content-Type": b"application/vnd.x+json"}
    assert _codecs.encode("json", [1], own) == (b"[1]", own)
    body, headers = _codecs.encode("json", [1], {"a": b"b"})
    assert (body, headers) == (b"[1]", {"a": b"b", "content-type": JSON})
    for said in (b"image/png", b"text/plain", b""):
        with pytest.raises(keepq.InvalidArgument, match="content-type"):
            _codecs.encode("json", [1], {"content-type": said})


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(keepq.InvalidArgument, match="'yaml'.*'json', 'msgpack', 'str', 'pickle'"):
        _codecs.lookup("yaml")
    with pytest.raises(TypeError):
        _codecs.lookup(json)  # type: ignore[arg-type]


def test_a_missing_package_is_told_and_is_not_the_messages_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body, headers = sent("msgpack", 1)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    for use in (
        lambda: _codecs.lookup("msgpack"),
        lambda: _codecs.encode("msgpack", 1, None),
        lambda: _codecs.value(None, body, headers, "m"),
    ):
        with pytest.raises(keepq.NotSupported, match="pip install"):
            use()


def test_a_codec_belongs_to_the_handle(path: Path) -> None:
    with keepq.open(path, codec="json") as kq, keepq.open(path) as plain:
        order: Any = {"id": 1, "who": "é"}
        topic, group = kq.topic("t"), kq.group("t", "g")
        topic.send(order)
        topic.send_async([order], headers={"a": b"b"}).result(30)
        topic.send_oneway("three")
        topic.send_many([4, keepq.Msg({"n": 5}, key="k", headers={"c": b"d"})])
        kq.producer("p").send("t", 6.5)
        kq.producer("p").send(kq.topic("t", codec="str"), "seven")
        plain.topic("t").send(b"8")
        kq.flush(timeout=30)
        for got in (group, plain.group("t", "h"), plain.group("t", "i", codec="json")):
            messages = got.receive_batch(100, timeout=30)
            values = [msg.value for msg in messages]
            assert values[:-1] == [order, [order], "three", 4, {"n": 5}, 6.5, "seven"]
            assert values[-1] == (b"8" if got.name == "h" else 8)
            assert messages[0].value is messages[0].value, "it is decoded once"
            assert messages[1].headers == {"a": b"b", "content-type": JSON}
            assert (messages[4].key, messages[4].headers["c"]) == ("k", b"d")
            assert messages[6].headers == {"content-type": b"text/plain; charset=utf-8"}
            assert messages[7].headers == {}
            assert messages[6].body == b"seven" and type(messages[6].body) is bytes


def test_a_handle_keeps_its_codec_when_it_is_pickled(path: Path) -> None:
    with keepq.open(path) as plain, keepq.open(path, codec="str") as kq:
        topic, group = plain.topic("t", codec="str"), plain.group("t", "g", codec="str")
        for again in (topic, kq.topic("t"), kq):
            copy: Any = pickle.loads(pickle.dumps(again))
            (copy.topic("t") if isinstance(copy, keepq.Store) else copy).send("x")
        for receiver in (group, kq.group("t", "h")):
            plain.topic("t").send(b"raw")
            got = pickle.loads(pickle.dumps(receiver)).receive_batch(100, timeout=30)
            assert {msg.value for msg in got} == {"x", "raw"}


def test_without_a_codec_str_is_refused_and_a_wrong_value_is_not_sent(kq: keepq.Store) -> None:
    for topic, value in (
        (kq.topic("t"), "text"),
        (kq.topic("t", codec="str"), b"bytes"),
        (kq.topic("t", codec="json"), b"bytes"),
    ):
        for send in (topic.send, topic.send_async, topic.send_oneway):
            with pytest.raises(TypeError):
                send(value)
        with pytest.raises(TypeError):
            topic.send_many([value])
    assert len(kq.topic("t")) == 0
    for use in (
        lambda: kq.topic("t", codec="yaml"),  # type: ignore[arg-type]
        lambda: kq.group("t", "g", codec="yaml"),  # type: ignore[arg-type]
        lambda: keepq.open(kq.path, codec="yaml"),  # type: ignore[arg-type]
    ):
        with pytest.raises(keepq.InvalidArgument, match="yaml"):
            use()


def test_what_does_not_decode_stays_where_it_is(kq: keepq.Store) -> None:
    kq.topic("t").send(b"{no json")
    group = kq.group("t", "g", codec="json", backoff=keepq.Backoff(first=0.01, jitter=0))
    msg = group.receive(timeout=5)
    for _ in range(2):
        with pytest.raises(keepq.DecodeError, match=rf"{msg.id} of \"t\", seq 0, does not decode"):
            _ = msg.value
    assert msg.body == b"{no json" and group.stats().in_flight == 1
    msg.nack(0)
    with pytest.raises(keepq.DecodeError), group.receive(timeout=5) as again:
        _ = again.value
    assert group.receive(timeout=5).attempt == 3


def test_importing_keepq_imports_no_codec(run_python: Any) -> None:
    code = """
import sys, keepq
heavy = {"json", "msgpack", "pickle", "asyncio", "multiprocessing", "keepq._codecs"}
print(*sorted(heavy & set(sys.modules)))
keepq.Worker, keepq.Queue, keepq.SUCCESS
print("asyncio" in sys.modules, "multiprocessing" in sys.modules)
"""
    out, error = run_python(code).communicate(timeout=60)
    assert out == "\nFalse False\n", error
