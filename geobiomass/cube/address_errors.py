"""Errors of addresses: a server that does not answer is no damage of a file.

Each library says it in its own way: GDAL as text, fsspec, aiohttp, botocore and obstore
by classes, which may not be installed. So the chain of causes is looked through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geobiomass.cube.errors import DamagedError, UnreachableError
from geobiomass.outside_text import one_line
from geobiomass.training.given_paths import is_address

# Packages whose errors are those of connections, credentials and answers of servers.
_OF_NETWORKS = frozenset(
    {
        *("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"),
        *("httpx", "obstore", "requests", "s3fs", "socket", "ssl", "urllib", "urllib3"),
    }
)
# File systems and stores of fsspec and obstore that need none.
_NEAR = ("LocalFileSystem", "LocalStore", "MemoryFileSystem", "MemoryStore")
_CUT_SHORT = ("ClientPayloadError", "ContentLengthError", "TransferEncodingError")
_TIMEOUTS = ("TimeoutError", "FSTimeoutError")
_REFUSED = re.compile(
    r"AWS_SECRET_ACCESS_KEY|GS_SECRET_ACCESS_KEY|AZURE_STORAGE_|AccessDenied|"
    r"Access Denied|Unauthorized|Forbidden|Unauthenticated|InvalidAccessKeyId|"
    r"SignatureDoesNotMatch|InvalidCredentials|[Cc]redentials"
)
_ABSENT = re.compile(r"NoSuchKey|NoSuchBucket|BucketNotFound|ObjectNotFound|Not ?Found")
# GDAL, "Network based file systems": the text of what libcurl found.
_STATUS = re.compile(
    r"HTTP response code:? ?(\d{3})|response_code ?= ?(\d{3})|HTTP Error (\d{3})|"
    r"status client error \((\d{3})|status server error \((\d{3})|"
    r"status: (\d{3})"
)
_CURL = re.compile(r"CURL error: (.+)|error sending request.*|Generic \w+ error: (.+)")

_SAYS = ", says its server"
_SECONDS = 10.0  # for an answer, when a server is asked what GDAL did not say
_LOOKED_AT = 64 * 2**20  # bytes that are read of it, to see whether it stops
_SILENT = "60"  # seconds without an answer, or a byte, that GDAL waits
_WAITING = {
    "GDAL_HTTP_CONNECTTIMEOUT": _SILENT,
    "GDAL_HTTP_LOW_SPEED_TIME": _SILENT,
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}


def failure_of(
    error: BaseException, address: Any, probe: str | None = None
) -> Exception | None:
    """Return the error that says why an address cannot be read.

    Parameters
    ----------
    error : BaseException
        What a library raised, with its causes.
    address : str, path or zarr.abc.store.Store
        What the user gave.
    probe : str, optional
        An address of HTTP that is asked what `error` does not say.

    Returns
    -------
    FileNotFoundError, PermissionError, UnreachableError or None
        None of what is on a disk, and of errors that say nothing of a connection.
    """
    if not _is_far(address):
        return None
    chain = list(_causes(error))
    if any(_SAYS in str(one) or isinstance(one, UnreachableError) for one in chain):
        return None  # said already
    name = one_line(address)
    for one in reversed(chain):
        status = _status_of(one)
        text = one_line(str(one).strip() or type(one).__name__)
        text = text if status is None else f"it answers {status}"
        if status in (404, 410) or (_of_network(one) and _ABSENT.search(_named(one))):
            return FileNotFoundError(
                f"There is nothing at {name}{_SAYS} ({text}); check the address."
            )
        if status in (401, 403) or _is_refusal(one):
            return PermissionError(
                f"{name} may not be read without permission{_SAYS} ({text}); check the "
                "address, and the credentials that its service expects."
            )
        if status is not None:
            return _unreachable(name, f"its server answers {status}")
        if type(one).__name__ in _CUT_SHORT:
            return _unreachable(name, f"its server stops before the end: {text}")
        if _of_network(one) or isinstance(one, ConnectionError | TimeoutError):
            silent = type(one).__name__ in _TIMEOUTS
            return _unreachable(name, "its server does not answer" if silent else text)
        if (found := _CURL.search(str(one))) is not None:
            return _unreachable(name, one_line(found.group(1) or found.group(0)))
    if probe is not None and probe.startswith(("http://", "https://")):
        return _asked(probe, name)
    if isinstance(error, FileNotFoundError) and str(error) in (name, str(address)):
        return FileNotFoundError(f"There is nothing at {name}{_SAYS}.")
    return None


@contextmanager
def told_of_address(address: Any, document: str = "") -> Iterator[None]:
    """Raise errors of a connection as :func:`failure_of` says them.

    Parameters
    ----------
    address : str, path or zarr.abc.store.Store
        What the user gave.
    document : str
        A file below the address that must be there: a server that has a page in its
        place is asked for it.
    """
    try:
        yield
    except Exception as error:
        failure = failure_of(error, address)
        if failure is None and document and isinstance(error, DamagedError):
            failure = failure_of(error, address, f"{address}".rstrip("/") + document)
        if failure is None:
            raise
        raise failure from error


def waiting_settings(path: object) -> dict[str, str]:
    """Return GDAL's settings with which waiting for a silent server has an end.

    There are none for a path on a disk. Those of the environment stay.
    """
    if not is_address(path):
        return {}
    return {name: time for name, time in _WAITING.items() if name not in os.environ}


def _is_far(place: Any) -> bool:
    """Return whether a path, or a store of Zarr, is read over a network."""
    if isinstance(place, str | os.PathLike):
        return is_address(place)
    inside = getattr(place, "fs", None) or getattr(place, "store", None)
    return inside is not None and type(inside).__name__ not in _NEAR


def _unreachable(name: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"{name} cannot be reached ({why}); check the address and the connection, and "
        "try again."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, or while."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _of_network(error: BaseException) -> bool:
    return any(
        kind.__module__.partition(".")[0] in _OF_NETWORKS or kind.__name__ in _TIMEOUTS
        for kind in type(error).__mro__
    )


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, PermissionError):
        return error.errno is None or not error.filename
    gdal = type(error).__name__.startswith(("CPLE_", "RasterioIOError"))
    return (gdal or _of_network(error)) and bool(_REFUSED.search(_named(error)))


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error is about, from 300."""
    if type(error).__name__ in _CUT_SHORT:
        return None  # aiohttp has 400 of them
    if _of_network(error):
        for name in ("status", "status_code", "code"):
            status = getattr(error, name, None)
            if isinstance(status, int) and 300 <= status < 600:
                return status
        answer = getattr(error, "response", None)
        if isinstance(status := getattr(answer, "status_code", None), int):
            return status if status >= 300 else None  # of requests
        facts = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        if isinstance(status := facts.get("HTTPStatusCode"), int) and status >= 300:
            return status
    found = _STATUS.search(str(error))
    return None if found is None else int(next(filter(None, found.groups())))


def _asked(address: str, name: str) -> Exception | None:
    """Ask a server for a file; return the error that its answer means."""
    import http.client
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *args: Any) -> None:
            return None

    request = Request(address, headers={"Range": f"bytes=0-{_LOOKED_AT - 1}"})
    try:
        with build_opener(NoRedirects).open(request, timeout=_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                why = "its server answers with a web page, such as that of a login"
                return _unreachable(name, why)
            got, meant = len(answer.read(_LOOKED_AT)), answer.headers["Content-Length"]
            if got < min(int(meant or 0), _LOOKED_AT):
                why = f"its server stops before the end: {got} of {meant} bytes came"
                return _unreachable(name, why)
            if answer.status == 200 and not address.endswith(".json"):
                why = "its server gives no parts of files, which rasters are read by"
                return _unreachable(name, why)
    except HTTPError as error:
        return failure_of(error, name) if error.code >= 400 else None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _unreachable(name, one_line(error))
    return None
