"""The password in a storage's URL: kept out of everything that is printed or written.

Hydra prints and writes the command line in many places: `.hydra`, `multirun.yaml`, `--cfg`, its errors. So it
never sees the password: `hidden` puts the URL without it on the command line, and keeps the URL itself in the
environment, which the workers of a sweep inherit on whatever machine they run. `revealed` finds it there.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from urllib.parse import quote, quote_plus

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clsweep.errors import InputError

_STARS = "***"
_ENVIRONMENT = "CLSWEEP_STORAGE"
_ARGUMENT = re.compile(r"(?P<key>\+{0,2}search\.storage=)(?P<value>.*)", re.DOTALL)
# Drivers take a password, a key's passphrase, a token or a whole connection string as a query parameter, too.
_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|odbc_connect", re.IGNORECASE)
# In a text that is no URL by itself: after the user's name, and in a query.
_WITHIN = (
    re.compile(r"(?P<before>(?:\w+\+\w+|\w*sql\w*|oracle|mariadb|cockroachdb)://[^:@/\s]*:)(?!\*\*\*@).*(?=@)"),
    re.compile(r"(?P<before>://[^:@/\s]*:)(?!\*\*\*@)[^\s]*(?=@)"),
    re.compile(rf"(?P<before>[?&][^=&\s]*(?:{_SECRET.pattern})[^=&\s]*=)(?!\*\*\*)[^&\s'\"]*", re.IGNORECASE),
)


def masked(url: str) -> str:
    """A storage's URL as it may be shown: stars for its password and for what is secret in its query.

    Args:
        url: as SQLAlchemy reads it; any other text is taken to hold one.
    """
    if url.count("://") != 1:
        return within(url)
    from sqlalchemy.engine import make_url  # here, since it takes long to import
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return within(url)
    secret = {key: _STARS for key in parsed.query if _SECRET.search(key)}
    if parsed.password is None and not secret:
        return url
    shown = parsed.update_query_dict(secret).render_as_string(hide_password=True)
    return shown.replace("%2A", "*")


def within(text: str) -> str:
    """A text with stars for what looks like a password in a URL in it."""
    for pattern in _WITHIN:
        text = pattern.sub(rf"\g<before>{_STARS}", text)
    return text


def hidden(arguments: Sequence[str]) -> list[str]:
    """The command line without the password of `search.storage`, which `revealed` knows from now on.

    Args:
        arguments: those of the command line.
    """
    return [_hidden(one) for one in arguments]


def _hidden(argument: str) -> str:
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return argument
    url = _value(argument, found["value"])
    shown = keep(url)
    if shown == url:
        return argument
    quoted = shown.replace("'", "\\'")
    return f"{found['key']}'{quoted}'"


def _value(argument: str, text: str) -> str:
    """The URL as Hydra would read it; where it can't, as it was typed."""
    try:
        value = OverridesParser.create().parse_override(argument).value()
        if isinstance(value, str):
            return str(OmegaConf.create({"url": value}).url)  # with `${oc.env:NAME}` in it put in
    except (HydraException, OmegaConfBaseException):
        pass
    return text.strip("'\"")


def keep(url: str) -> str:
    """Keep a storage's URL for this process and its workers.

    Returns:
        The URL as it may be shown, which `revealed` takes.
    """
    shown = masked(url)
    if shown != url:
        os.environ[_ENVIRONMENT] = url
        sys.excepthook = _print_exception
    return shown


def revealed(url: str) -> str:
    """The whole URL of one that `hidden` or `keep` has masked; any other as it is.

    Raises:
        InputError: it is masked, and not known here.
    """
    kept = os.environ.get(_ENVIRONMENT)
    if kept is not None and masked(kept) == url:
        return kept
    if _STARS in url:
        raise InputError(
            f"search.storage={url}: its password isn't known here; expected the whole URL, or one without a password, "
            "which then belongs in ~/.pgpass."
        )
    return url


def without(text: str) -> str:
    """A text of others, such as a driver's error, with stars for the password that is kept."""
    for secret in _secrets(os.environ.get(_ENVIRONMENT, "")):
        text = text.replace(secret, _STARS)
    return within(text)


def _secrets(url: str) -> Iterator[str]:
    """What is secret in a URL, as it is and as it is written there."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return
    values = [parsed.password, *(value for key, value in parsed.query.items() if _SECRET.search(key))]
    for value in values:
        for one in [value] if isinstance(value, str) else value or ():
            yield from {one, quote(one), quote(one, safe=""), quote_plus(one)} - {""}


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python prints what nothing caught, but for the password."""
    print(without("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
