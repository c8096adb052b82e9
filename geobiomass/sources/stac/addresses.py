"""Which addresses the items of a catalogue may name, by where the catalogue is.

An item comes from anywhere, and names what is read: without these rules a catalogue on
the internet could make this machine read its own files, its local servers, or those of
the network it is in.

================  ===========================================================
catalogue         its items may name
================  ===========================================================
a local file      anything
on this machine   servers on this machine, in private networks, the internet
in a network      servers in private networks, the internet
on the internet   the internet
================  ===========================================================
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from geobiomass.cube import CubeError
from geobiomass.outside_text import one_line

Place = Literal["file", "loopback", "link-local", "private", "public"]

_IN_WORDS: dict[Place, str] = {
    "file": "a file",
    "loopback": "a server on this machine",
    "link-local": "a link-local address, as clouds use for credentials",
    "private": "a server in a private network",
    "public": "the internet",
}
_ALLOWED: dict[Place, frozenset[Place]] = {
    "file": frozenset(_IN_WORDS),
    "loopback": frozenset({"loopback", "private", "public"}),
    "link-local": frozenset({"link-local", "private", "public"}),
    "private": frozenset({"private", "public"}),
    "public": frozenset({"public"}),
}
_STRICTEST: tuple[Place, ...] = ("loopback", "link-local", "private", "public")
_WEB = ("http", "https")
# Object stores: names of buckets, not of machines.
_STORES = ("s3", "gs", "az", "abfs", "abfss")
# No spaces and controls; no backslash, which some programs read as a slash; no brackets
# and quotes of XML, which GDAL reads as a data set of its own.
_PLAIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://[^\s\\<>\"'`{}|\x00-\x1f\x7f]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
# Their servers answer with the object or an error, and send nobody elsewhere.
_NO_REDIRECTS = (".blob.core.windows.net", "storage.googleapis.com")


class Guard:
    """The rule for the items of one catalogue.

    Parameters
    ----------
    catalogue : str, optional
        Its address or path; None for items that the user's code made.

    Attributes
    ----------
    place : str
        Where it is.
    """

    def __init__(self, catalogue: str | None = None) -> None:
        self.catalogue = catalogue
        self.place: Place = "file" if catalogue is None else place_of(catalogue)

    def check(self, href: Any, what: str) -> str:
        """Return an address, checked that an item of the catalogue may name it.

        Parameters
        ----------
        href : str
            The address; anything else is an error.
        what : str
            What names it, for the message: "Asset B04 of item x".

        Raises
        ------
        CubeError
            If it may not, or if the address is none.
        """
        if not isinstance(href, str) or not href:
            raise CubeError(f"{what} must have an address, got {href!r}.")
        if self.place == "file":
            return href
        found = place_of(href)
        if found not in _ALLOWED[self.place]:
            raise CubeError(
                f"{what} refers to {without_secrets(href)}, {_IN_WORDS[found]}, which "
                f"a catalogue at {without_secrets(self.catalogue or '')} may not name. "
                "If you know what it is, save the items to a file and open that: a "
                "file of yours may name any address."
            )
        if not _PLAIN.fullmatch(href):
            raise CubeError(f"{what} must have a plain address, got {href[:200]!r}.")
        return href


def place_of(href: str) -> Place:
    """Return where an address leads: a file, this machine, a network, the internet.

    The name of a host is resolved; of several addresses the nearest one counts.
    """
    if os.name == "nt" and re.match(r"[A-Za-z]:[\\/]", href):
        return "file"
    scheme = _SCHEME.match(href)
    if scheme is None or not _PLAIN.fullmatch(href):
        return "file"
    kind = scheme[1].lower()
    if kind in _STORES:
        return "public"
    if kind not in _WEB:  # file:, zip+https:, vsi names, drivers of GDAL
        return "file"
    try:
        host = urlsplit(href).hostname
    except ValueError:  # such as an open bracket
        return "file"
    # Names are resolved once a minute, not once for each of thousands of assets.
    return _place_of_host(host, int(time.monotonic() // 60)) if host else "file"


@lru_cache(1024)
def _place_of_host(host: str, minute: int) -> Place:
    places = {_place_of_ip(ip) for ip in _resolved(host)}
    return next((place for place in _STRICTEST if place in places), "public")


def _resolved(host: str) -> list[str]:
    """Return the addresses of a host; none if there is no such host, or no network."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        name = host.rstrip(".").lower()
        own = name == "localhost" or name.endswith(".localhost")
        return ["127.0.0.1"] if own else []


def _place_of_ip(text: str) -> Place:
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = within or ip
    if ip.is_loopback or ip.is_unspecified:
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    return "public" if ip.is_global and not ip.is_multicast else "private"


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


def without_secrets(href: str) -> str:
    """Return an address without user, password, signature and fragment, for people."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return one_line(href.split("?")[0])[:200]
    if not parts.netloc:
        return one_line(href)[:200]
    host = parts.netloc.rpartition("@")[2]
    return one_line(urlunsplit((parts.scheme, host, parts.path, "", "")))[:200]


def may_redirect(href: str) -> bool:
    """Return whether the server of an address may send a reader to another one."""
    parts = urlsplit(href)
    host = (parts.hostname or "").lower()
    bucket = re.search(r"(^|\.)s3[.-][a-z0-9-]+\.amazonaws\.com$", host)
    website = "s3-website" in host
    return parts.scheme in _WEB and not (
        host.endswith(_NO_REDIRECTS) or (bucket and not website)
    )
