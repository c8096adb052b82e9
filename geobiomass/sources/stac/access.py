"""How archives let their readers in: signatures and keys, and what is lacking."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from geobiomass.cube import CubeError
from geobiomass.sources.stac.addresses import without_secrets
from geobiomass.sources.stac.scene import Scene
from geobiomass.training.packages import need

# Part of addresses that the Planetary Computer signs: storage of Azure.
_SIGNED = ".blob.core.windows.net/"
_COPERNICUS = "s3://eodata/"
_COPERNICUS_SERVER = "eodata.dataspace.copernicus.eu"
_EARTHDATA = (".earthdatacloud.nasa.gov", ".earthdata.nasa.gov", ".asf.alaska.edu")
_EARTHDATA_LOGIN = "urs.earthdata.nasa.gov"

# GDAL reads these, and rasterio's session of S3.
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
ENDPOINTS = ("AWS_S3_ENDPOINT",)
TOKENS = (
    *("GDAL_HTTP_BEARER", "GDAL_HTTP_HEADERS", "GDAL_HTTP_HEADER_FILE"),
    *("GDAL_HTTP_USERPWD", "GDAL_HTTP_NETRC_FILE"),
)


def signer(
    sign: Callable[[str], str] | bool | None, scenes: Sequence[Scene]
) -> Callable[[str], str] | None:
    """Return the function that signs the addresses of scenes, None if none is needed.

    Raises
    ------
    CubeError
        If an archive of theirs needs a key or a login that is lacking. What the user's
        own function signs is not asked for.
    """
    if callable(sign):
        return sign
    hrefs = [href for scene in scenes for _, _, href in scene.assets]
    _check_copernicus(hrefs)
    _check_earthdata(hrefs)
    asks = any(_SIGNED in href for href in hrefs)
    if sign is False or not (sign or asks):
        return None
    need(
        "Signing addresses of the Planetary Computer (or give sign=, False for none)",
        "stac",
        "planetary_computer",
    )
    return sign_for_planetary_computer


def sign_for_planetary_computer(href: str) -> str:
    """Return an address with the signature of the Planetary Computer.

    Raises
    ------
    CubeError
        If it refuses to sign: without a key, or with a wrong one.
    """
    from planetary_computer import sign_url
    from requests import HTTPError

    try:
        return str(sign_url(href))
    except HTTPError as error:
        answer = error.response
        if answer is None or answer.status_code not in (401, 403):
            raise
        raise CubeError(
            f"The Planetary Computer refuses to sign {without_secrets(href)} (it "
            f"answers {answer.status_code}): set the environment variable "
            "PC_SDK_SUBSCRIPTION_KEY to a valid subscription key, remove a wrong one, "
            "or leave out the items of this collection."
        ) from error


def _check_copernicus(hrefs: Sequence[str]) -> None:
    """Check that there are keys for the S3 of the Copernicus Data Space."""
    if not any(href.startswith(_COPERNICUS) for href in hrefs):
        return
    given = _gdal_settings()
    lacking = []
    if not _has(given, KEYS) and not _aws_file().is_file():
        lacking += ["AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to your S3 keys"]
    if not _has(given, ENDPOINTS):
        lacking += [f"AWS_S3_ENDPOINT to {_COPERNICUS_SERVER}"]
    if lacking:
        raise CubeError(
            "Images of the Copernicus Data Space (s3://eodata) are read with keys of "
            f"your own: set the environment variables {' and '.join(lacking)}, and "
            "AWS_VIRTUAL_HOSTING to FALSE."
        )


def _check_earthdata(hrefs: Sequence[str]) -> None:
    """Check that there is a login for NASA's Earthdata."""
    hosts = {urlsplit(href).hostname or "" for href in hrefs}
    if not any(host.endswith(_EARTHDATA) for host in hosts):
        return
    if not _has(_gdal_settings(), TOKENS) and not _has_login():
        raise CubeError(
            "Images of NASA's Earthdata are read with a login: set the environment "
            "variables GDAL_HTTP_AUTH to BEARER and GDAL_HTTP_BEARER to a token of "
            f"{_EARTHDATA_LOGIN}, or write your login for it into ~/.netrc."
        )


def _has(given: dict[str, Any], names: Sequence[str]) -> bool:
    return any(given.get(name) or os.environ.get(name) for name in names)


def _gdal_settings() -> dict[str, Any]:
    """Return what the user gave to GDAL by odc.stac.configure_rio or rasterio.Env."""
    from odc.loader import RioDriver

    found: dict[str, Any] = dict(RioDriver().capture_env())
    session = found.pop("_aws", None)
    if session and not (isinstance(session, dict) and session.get("aws_unsigned")):
        found["AWS_ACCESS_KEY_ID"] = "of the session"
    return found


def _aws_file() -> Path:
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return Path(named).expanduser()


def _has_login() -> bool:
    """Return whether ~/.netrc, which GDAL reads, has a login of Earthdata."""
    import netrc

    try:
        found = netrc.netrc(str(Path("~/.netrc").expanduser()))
    except (OSError, netrc.NetrcParseError):
        return False
    return found.authenticators(_EARTHDATA_LOGIN) is not None
