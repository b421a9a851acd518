"""What stands behind the ``?`` of a source of data: ``size=96&fit=crop``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from torchshrink.errors import DataError


def parse(source: str, query: str, known: Collection[str]) -> dict[str, str]:
    """Return the options of a source.

    Raises:
        DataError: When one is unknown, empty or said twice.
    """
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise DataError(f"{source}: cannot use {key}={value}, the options are {', '.join(known)}")
        if key in options:
            raise DataError(f"{source}: {key} is said twice, once as {options[key]} and once as {value}: keep one")
        if not value:
            raise DataError(f"{source}: cannot use {key}= without a value, give it one or leave it out")
        options[key] = value
    return options


def positive(source: str, options: Mapping[str, str], key: str) -> int | None:
    """Return a positive whole number, or nothing where the option is not given.

    Raises:
        DataError: When it is anything else.
    """
    value = options.get(key)
    if value is None:
        return None
    if not value.isdecimal() or not 0 < int(value) < 2**31:
        raise DataError(f"{source}: cannot use {key}={value}, it is a positive whole number")
    return int(value)
