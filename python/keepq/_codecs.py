"""Codecs: values instead of bytes, told apart by a content-type header.

A codec belongs to a handle (of a store, topic, group, worker or queue) and is named: "json",
"msgpack", "str" or "pickle". A message that is sent through one carries the header `content-type`,
as any program in any language may set it. When a message is read that header decides, and the
handle's codec stands in where there is none. Pickles are the exception: reading one runs whatever
it says, so only a handle whose codec is "pickle" does.

The modules that do the work are imported by the first use, so that `import keepq` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._errors import DecodeError, InvalidArgument, NotSupported
from ._types import BytesLike

CodecName: TypeAlias = Literal["json", "msgpack", "str", "pickle"]

HEADER = "content-type"

# Charsets that a text may name; all others are refused, some of which are no encodings of text.
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1"})


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to make bytes of values and back."""

    name: CodecName
    content_type: str
    """What its messages say they are."""
    read: frozenset[str]
    """Content types without parameters that it reads."""
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes, Mapping[str, str]], Any]
    """From the body and the parameters of its content type."""


def lookup(name: str | None) -> Codec | None:
    """The codec with this name; None for None.

    Raises InvalidArgument when there is none, NotSupported when it needs a package that is missing.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"codec is a name, not {type(name).__name__}")
    codec = _BY_NAME.get(name)
    if codec is None:
        names = ", ".join(map(repr, _BY_NAME))
        raise InvalidArgument(
            f"there is no codec {name!r}; there are {names}", number=503, name="InvalidArgument"
        )
    if codec.name == "msgpack":
        _msgpack()
    return codec


def encode(
    name: str | None, value: object, headers: Mapping[str, BytesLike] | None
) -> tuple[Any, Mapping[str, BytesLike] | None]:
    """The body and headers to send for a value; without a codec they are as they were given.

    A content type among the headers stays as it is, if it is one that this codec reads. Raises
    TypeError or ValueError when the codec cannot express the value.
    """
    codec = lookup(name)
    if codec is None:
        return value, headers
    try:
        body = codec.encode(value)
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"a value that {codec.name} cannot express: {error}") from error
    given = None if headers is None else _content_type(headers)
    if given is None:
        return body, {**(headers or {}), HEADER: codec.content_type.encode()}
    if _find(given) is not codec:
        raise InvalidArgument(
            f"the header {HEADER} says {given}, but the codec {codec.name!r} makes "
            f"{codec.content_type}",
            number=503,
            name="InvalidArgument",
        )
    return body, headers


def value(name: str | None, body: bytes, headers: Mapping[str, bytes], what: str) -> Any:
    """The value of a body, by its content type, else by the codec with this name.

    The body itself if there is neither. `what` names the message in errors. Raises DecodeError when
    the body is not what it should be, NotSupported when a package for it is missing.
    """
    asked = None if name is None else _BY_NAME.get(name)
    said = _content_type(headers)
    codec = asked if said is None else _find(said)
    if codec is None:
        if asked is None:
            return body
        raise _error(f"{what} is {said}, which the codec {asked.name!r} does not read")
    if codec.name == "pickle" and asked is not codec:
        raise _error(f"{what} is a pickle, which only handles with codec='pickle' read")
    parameters = {} if said is None else _media_type(said)[1]
    try:
        return codec.decode(body, parameters)
    except (NotSupported, MemoryError):
        raise
    except Exception as error:
        kind = codec.content_type if said is None else said
        raise _error(
            f"{what} does not decode as {kind}: {type(error).__name__}: {error}"
        ) from error


def _error(text: str) -> DecodeError:
    return DecodeError(f"{text}; its bytes are in .body", number=505, name="Decode")


def _content_type(headers: Mapping[str, BytesLike]) -> str | None:
    """What the headers say of the content, if they do. Names of headers differ in case."""
    said = headers.get(HEADER)
    if said is None:
        said = next((v for k, v in headers.items() if k.lower() == HEADER), None)
    return None if said is None else bytes(said).decode("ascii", "replace").strip()


def _media_type(said: str) -> tuple[str, dict[str, str]]:
    """A content type, taken apart: `text/plain; charset=utf-8`."""
    kind, *rest = said.split(";")
    pairs = (part.partition("=") for part in rest)
    parameters = {k.strip().lower(): v.strip().strip('"').lower() for k, _, v in pairs}
    return kind.strip().lower(), parameters


def _find(said: str) -> Codec | None:
    """The codec that reads a content type."""
    kind = _media_type(said)[0]
    if kind.endswith("+json"):
        return _BY_NAME["json"]
    return next((codec for codec in _BY_NAME.values() if kind in codec.read), None)


def _encode_json(value: object) -> bytes:
    import json

    # What is no JSON (NaN, lone surrogates) would be sent to readers who refuse it.
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _decode_json(body: bytes, _parameters: Mapping[str, str]) -> Any:
    import json

    # By RFC 8259 it is UTF-8, and a mark at its beginning may be ignored.
    return json.loads(body.decode("utf-8-sig"))


def _msgpack() -> Any:
    try:
        return __import__("msgpack")
    except ImportError as error:
        raise NotSupported(
            "the codec 'msgpack' needs the package msgpack: pip install 'keepq[msgpack]'",
            number=605,
            name="NotSupported",
        ) from error


def _encode_msgpack(value: object) -> bytes:
    packed = _msgpack().packb(value, use_bin_type=True, datetime=True)
    assert isinstance(packed, bytes)
    return packed


def _decode_msgpack(body: bytes, _parameters: Mapping[str, str]) -> Any:
    # Numbers are keys in Python, and times are aware datetimes: as they were encoded.
    return _msgpack().unpackb(body, raw=False, strict_map_key=False, timestamp=3)


def _encode_str(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"the codec 'str' sends str, not {type(value).__name__}")
    return value.encode()


def _decode_str(body: bytes, parameters: Mapping[str, str]) -> str:
    charset = parameters.get("charset", "utf-8")
    if charset not in _CHARSETS:
        raise ValueError(f"the charset {charset!r} is not known")
    return body.decode(charset)


def _encode_pickle(value: object) -> bytes:
    import pickle

    return pickle.dumps(value)


def _decode_pickle(body: bytes, _parameters: Mapping[str, str]) -> Any:
    import pickle

    return pickle.loads(body)


_BY_NAME: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec(
            name="json",
            content_type="application/json",
            read=frozenset({"application/json", "text/json"}),
            encode=_encode_json,
            decode=_decode_json,
        ),
        Codec(
            name="msgpack",
            content_type="application/vnd.msgpack",
            read=frozenset(
                {"application/vnd.msgpack", "application/msgpack", "application/x-msgpack"}
            ),
            encode=_encode_msgpack,
            decode=_decode_msgpack,
        ),
        Codec(
            name="str",
            content_type="text/plain; charset=utf-8",
            read=frozenset({"text/plain"}),
            encode=_encode_str,
            decode=_decode_str,
        ),
        Codec(
            name="pickle",
            content_type="application/x-python-serialize",
            read=frozenset({"application/x-python-serialize"}),
            encode=_encode_pickle,
            decode=_decode_pickle,
        ),
    )
}
