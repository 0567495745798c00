"""Codecs: values go in and come out, by the content type; what does not decode loses nothing."""

from __future__ import annotations

import json
import math
import pickle
import sys
from datetime import UTC, datetime, timedelta
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
