"""What handles are when they are unpickled: opened again, from their path and options.

What is there is taken as it is; its options may have been changed by configure() since. What is not
there any more is made as it was asked for, but for the store: an empty one would hide the loss.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ._errors import NotFound
from ._keepq import Group, Store, Topic, open


def store(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Store:
    """A store that was made before."""
    return open(path, create=False, **options)


def topic(store: Store, name: str, options: Mapping[str, Any]) -> Topic:
    """A topic of it."""
    mine = {key: options[key] for key in ("flush", "codec") if key in options}
    try:
        return store.topic(name, create=False, **mine)
    except NotFound:
        return store.topic(name, **options)


def group(store: Store, topic: str, name: str, options: Mapping[str, Any]) -> Group:
    """A group of it."""
    try:
        mine = {key: options[key] for key in ("codec", "broadcast") if key in options}
        return store.group(topic, name, create=False, **mine)
    except NotFound:
        return store.group(topic, name, **options)
