"""Requests for STAC documents: checked at each redirect, bounded in size and time."""

from __future__ import annotations

from functools import cache
from typing import Any

from pystac_client.stac_api_io import StacApiIO
from requests import HTTPError, PreparedRequest, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from geobiomass.cube import CubeError
from geobiomass.sources.stac.addresses import Guard
from geobiomass.training.given_paths import check_file
from geobiomass.training.json_files import parse_json

MOST_BYTES = 256 * 2**20
"""Largest document: an item has 10 to 30 kB, so ten thousand items of one search."""

_TIMEOUT = (30.0, 120.0)  # seconds: to connect, and between two parts of an answer
_PART = 2**16
_FEW = 2**12


class _Adapter(HTTPAdapter):
    """Checks the address of each request, of redirects too, and bounds the answer."""

    def __init__(self, guard: Guard, most: int, **options: Any) -> None:
        self._guard, self._most = guard, most
        super().__init__(**options)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        self._guard.check(request.url, "A document of the catalogue")
        answer = super().send(request, True, timeout or _TIMEOUT, verify, cert, proxies)
        content = bytearray()
        for part in answer.iter_content(_PART):  # unpacked, if it is compressed
            content += part
            if len(content) > self._most:
                answer.close()
                break
        answer._content = _bounded(bytes(content), str(request.url))
        answer._content_consumed = True
        return answer


class GuardedIO(StacApiIO):
    """Reads STAC documents where a catalogue may be read, bounded in size and depth."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(timeout=_TIMEOUT)
        self._guard = guard
        retries = Retry(5)  # as pystac-client
        for scheme in ("http://", "https://"):
            adapter = _Adapter(guard, MOST_BYTES, max_retries=retries)
            self.session.mount(scheme, adapter)

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Read a document, if the catalogue may name it."""
        href = _href(source)
        self._guard.check(href, "A link of the catalogue")
        if "://" in href:
            return super().read_text(source, *args, **kwargs)
        check_file(href, CubeError)
        with open(href, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        return _bounded(content, href).decode("utf-8")

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a document as JSON."""
        text = self.read_text(source, *args, **kwargs)
        found: dict[str, Any] = parse_json(text, _href(source), dict, MOST_BYTES)
        return found


def _href(source: Any) -> str:
    return str(source if isinstance(source, str) else getattr(source, "href", source))


def _bounded(content: bytes, href: str) -> bytes:
    if len(content) > MOST_BYTES:
        raise CubeError(
            f"{href} must have at most {MOST_BYTES:,} bytes, got more; ask for fewer "
            "items, or open the archive by its address."
        )
    return content


def first_byte(href: str, guard: Guard) -> None:
    """Ask for the first byte of a file, which follows its redirects.

    Raises
    ------
    CubeError
        If one leads to where the catalogue may not. Other errors are left to the
        reader of the file, who names it.
    """
    with Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(guard, _FEW))
        try:
            session.get(href, headers={"Range": "bytes=0-0"}, timeout=_TIMEOUT)
        except RequestException:
            return


def first_bytes(href: str, guard: Guard, count: int) -> bytes:
    """Return the first bytes of a file, in one request.

    Raises
    ------
    CubeError
        If a redirect leads to where the catalogue may not.
    requests.RequestException
        If the server does not answer, or refuses.
    """
    retries = Retry(3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    with Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(guard, count, max_retries=retries))
        wanted = {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        answer = session.get(href, headers=wanted, timeout=_TIMEOUT)
    if answer.status_code >= 400:  # raise_for_status would show the signature
        raise HTTPError(f"it answers {answer.status_code}", response=answer)
    return answer.content[:count]


@cache
def check_redirects(href: str, catalogue: str) -> None:
    """Check that the server of a file does not redirect to a forbidden address.

    GDAL, which reads the file, follows redirects by itself. Once for each file in a
    process.

    Raises
    ------
    CubeError
        If it does.
    """
    first_byte(href, Guard(catalogue))
