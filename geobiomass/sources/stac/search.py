"""Items of STAC from wherever they are: a search, a file, a catalogue, an archive."""

from __future__ import annotations

import calendar
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geobiomass.cube import CubeError
from geobiomass.sources.stac.archives import ARCHIVES, Archive, Box

if TYPE_CHECKING:
    from pystac import Item
    from pystac_client.stac_api_io import StacApiIO

LONGEST = 12  # months: a cube has each calendar month once


@dataclass(frozen=True)
class Period:
    """Calendar months in a row, each with its year."""

    months: tuple[tuple[int, int], ...]

    @property
    def span(self) -> str:
        """The period as STAC's searches take it."""
        return f"{self.start}T00:00:00Z/{self.end}T23:59:59.999Z"

    @property
    def start(self) -> str:
        """First day, ISO 8601."""
        year, month = self.months[0]
        return f"{year}-{month:02d}-01"

    @property
    def end(self) -> str:
        """Last day, ISO 8601."""
        year, month = self.months[-1]
        return f"{year}-{month:02d}-{calendar.monthrange(year, month)[1]}"


def parse_period(months: str | Sequence[str]) -> Period:
    """Read ``"2023-09:2024-08"``, or a pair of such months, or one.

    Raises
    ------
    CubeError
        If it is no period, is empty, or is longer than a year.
    """
    words = months.split(":") if isinstance(months, str) else list(months)
    matches = [re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", str(word)) for word in words]
    if len(words) not in (1, 2) or not all(matches):
        raise CubeError(
            "months must be the first and the last month, such as '2023-09:2024-08', "
            f"got {months!r}."
        )
    numbers = [int(m[1]) * 12 + int(m[2]) - 1 for m in matches if m]
    return period_of(numbers[0], numbers[-1], f"{months!r}")


def period_of(first: int, last: int, said: str) -> Period:
    """Give the months from one to another, both counted as year x 12 + month - 1.

    Raises
    ------
    CubeError
        If there is none, or more than twelve.
    """
    count = last - first + 1
    if count < 1:
        raise CubeError(f"months must not end before they begin, got {said}.")
    if count > LONGEST:
        raise CubeError(
            f"months must be {LONGEST} at most, since a cube has each calendar month "
            f"once, got {count}: {said}; make a cube a year."
        )
    return Period(tuple((n // 12, n % 12 + 1) for n in range(first, last + 1)))


def read_region(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a GeoJSON file.

    Raises
    ------
    CubeError
        If it is not GeoJSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise CubeError(f"{path} must be GeoJSON, got {error}.") from error
    if not isinstance(content, dict) or "type" not in content:
        raise CubeError(f"{path} must be GeoJSON, got {type(content).__name__}.")
    return content


def find_items(
    source: Any, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    """Get items, each once, from what a user has.

    Parameters
    ----------
    source : optional
        A search of pystac-client, an item collection, items or dictionaries of
        items, a path or an address of either kind of catalogue, or the name of an
        archive.
    archive : Archive, optional
        Whose collections to search for; by default those of all archives.
    box : tuple of float
        Degrees: west, south, east, north.
    period : Period, optional
        Only a search needs it.

    Raises
    ------
    CubeError
        If it is none of these, or a search has no period.
    """
    if isinstance(source, str | os.PathLike):
        place = os.fspath(source)
        if place in ARCHIVES:
            archive = archive or ARCHIVES[place]
            found = _search(ARCHIVES[place].url, archive, box, period)
        else:
            found = _from_place(place, archive, box, period)
    elif hasattr(source, "items") and not isinstance(source, Mapping):
        found = source.items() if callable(source.items) else source.items
    else:
        found = source
    if not isinstance(found, Iterable) or isinstance(found, Mapping):
        raise CubeError(
            "items must be a search of pystac-client, items, the path or address of a "
            f"catalogue, or one of {list(ARCHIVES)}, got {type(source).__name__}."
        )
    items = [_as_item(one) for one in found]
    return list({(item.collection_id, item.id): item for item in items}.values())


def _as_item(one: Any) -> Item:
    import pystac

    if isinstance(one, pystac.Item):
        return one
    if isinstance(one, Mapping) and one.get("type") == "Feature":
        return pystac.Item.from_dict(dict(one))
    raise CubeError(
        f"Each of items must be an item of STAC, got {type(one).__name__}; of a "
        "catalogue give its items, catalog.get_items(recursive=True)."
    )


def _search(
    url: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    from pystac_client import Client

    if period is None:
        raise CubeError(f"A search of {url} needs months, such as '2023-09:2024-08'.")
    searched = [archive] if archive is not None else list(ARCHIVES.values())
    names = {name for one in searched for name in (*one.optical, *one.radar)}
    client = _reach(Client.open, url)
    search = client.search(
        collections=sorted(names), bbox=box, datetime=period.span, limit=100
    )
    return list(_reach(search.item_collection))


def _from_place(
    place: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    """Read a file or an address: items, a static catalogue, or a STAC API."""
    import pystac
    from pystac_client.stac_api_io import StacApiIO

    reader = StacApiIO()
    content = _reach(reader.read_json, place)
    kind = content.get("type")
    if kind == "FeatureCollection":
        if any(link.get("rel") == "next" for link in content.get("links", [])):
            raise CubeError(
                f"{place} is one page of several; give the address of the archive, "
                "or save a whole search with its item_collection().save_object()."
            )
        return _placed(pystac.ItemCollection.from_dict(content), place)
    if any(link["rel"] == "search" for link in content.get("links", [])):
        return _search(place, archive, box, period)
    if kind in ("Catalog", "Collection", "Feature"):
        return list(_walk(place, content, reader))
    raise CubeError(
        f"{place} must hold items of STAC, a catalogue or an API, got type {kind!r}."
    )


def _placed(items: Iterable[Item], place: str) -> list[Item]:
    """Give items of a file, whose addresses may be relative to that file."""
    from pystac.utils import make_absolute_href

    found = list(items)
    for item in found:
        for asset in item.assets.values():
            if item.get_self_href() is None:
                asset.href = make_absolute_href(asset.href, place)
    return found


def _walk(place: str, content: dict[str, Any], reader: StacApiIO) -> Iterator[Item]:
    """Follow a static catalogue to its items."""
    from pystac import Item
    from pystac.utils import make_absolute_href

    waiting, known = [(place, content)], {place}
    while waiting:
        href, one = waiting.pop()
        if one.get("type") == "Feature":
            yield Item.from_dict(one, href=make_absolute_href(href))
            continue
        for link in one.get("links", []):
            target = make_absolute_href(link["href"], href)
            if link["rel"] in ("child", "item") and target not in known:
                known.add(target)
                waiting.append((target, _reach(reader.read_json, target)))


def _reach(call: Any, *arguments: Any, **options: Any) -> Any:
    """Call what goes over the network; name the trouble in one sentence."""
    import pystac
    from pystac_client.exceptions import APIError
    from requests import RequestException

    try:
        return call(*arguments, **options)
    except (APIError, RequestException, pystac.STACError, ValueError) as error:
        where = arguments[0] if arguments else "the archive"
        raise CubeError(f"{where} cannot be read as STAC: {error}") from error
