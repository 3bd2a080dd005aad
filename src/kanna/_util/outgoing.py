"""`KANNA_OFFLINE=1`: nothing in a process of kanna connects to another machine.

An audit hook of Python (PEP 578) sees every connection and every look-up of a name before it is
made, whichever library asks. It is added when `kanna` is imported, as every process of ours does
first; programs that are not Python are told by variables of their own, and not started to fetch.
Errors are imported when one is raised: what is imported with `kanna` itself could be a stranger's.
"""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLE = "KANNA_OFFLINE"
LIBRARIES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
    "npm_config_offline": "true",
}
"""Variables by which others are told the same."""
_CONNECTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKS_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex"}


def forbidden() -> bool:
    """Whether the user wants nothing to leave this machine."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def forbid() -> None:
    """Refuse every connection to another machine from now on, where the user wants that."""
    if forbidden():
        os.environ.update(LIBRARIES)
        sys.addaudithook(_heard)


def require(what: str) -> None:
    """Raise RefusedError where fetching `what` would ask another machine, and nothing may."""
    if forbidden():
        from kanna.errors import RefusedError

        raise RefusedError(
            f"{what} is not on this machine, and {VARIABLE} forbids to fetch it",
            expected="everything that is needed on this machine",
            todo=f"fetch it where that is allowed, or unset {VARIABLE}",
        )


def _heard(event: str, given: tuple[Any, ...]) -> None:
    if event in _CONNECTS:
        address = given[-1]
        # Text or bytes: a socket of this machine, by its file.
        host = address[0] if isinstance(address, tuple) else None
    elif event in _LOOKS_UP:
        host = given[0]
    else:
        return
    if host:
        _refuse(host)


def refuse(host: str) -> None:
    """Raise RefusedError for another machine, to which a library that is not Python connects."""
    if forbidden():
        _refuse(host)


def _refuse(host: Any) -> None:
    if not _here(host):
        from kanna.errors import RefusedError

        raise RefusedError(
            f"{VARIABLE} forbids a connection to {_shown(host)}",
            expected="this machine alone: localhost, 127.0.0.1, ::1",
            todo=f"fetch what is needed where that is allowed, or unset {VARIABLE}",
        )


def _shown(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)


def _here(host: Any) -> bool:
    import ipaddress

    name = _shown(host)
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    # A server binds to 0.0.0.0, and looks that up before.
    return address.is_loopback or address.is_unspecified
