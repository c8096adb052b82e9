"""STAC items from an archive, an API, a catalogue, a file, or a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import parts
from geobiomass.sources.stac.archives import ARCHIVES, Archive, Box
from geobiomass.sources.stac.period import Period

if TYPE_CHECKING:
    from pystac import Item
    from pystac_client.stac_api_io import StacApiIO


def find_items(
    source: Any, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    """Return the STAC items of a source, each once.

    Parameters
    ----------
    source : optional
        A search of pystac-client, an item collection, items or dictionaries of
        items, a path or an address of either kind of catalogue, or the name of an
        archive.
    archive : Archive, optional
        Archive whose collections are searched; by default all archives.
    box : tuple of float
        Area of a search in degrees: west, south, east, north.
    period : Period, optional
        Months of a search.

    Raises
    ------
    CubeError
        If the source is none of these, or a search has no period.
    """
    if isinstance(source, str | os.PathLike):
        href = os.fspath(source)
        if href in ARCHIVES:
            archive = archive or ARCHIVES[href]
            found = _search(ARCHIVES[href].url, archive, box, period)
        else:
            found = _from_href(href, archive, box, period)
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
        f"Each of items must be a STAC item, got {type(one).__name__}; from a "
        "catalogue, pass its items, catalog.get_items(recursive=True)."
    )


def _search(
    url: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    from pystac_client import Client

    if period is None:
        raise CubeError(f"A search of {url} needs months, such as '2023-09:2024-08'.")
    searched = [archive] if archive is not None else list(ARCHIVES.values())
    names = {name for one in searched for name in (*one.optical, *one.radar)}
    client = _request(Client.open, url)
    found: list[Item] = []
    for part in parts(box):  # not every server takes a box across 180 degrees
        search = client.search(
            collections=sorted(names), bbox=part, datetime=period.span, limit=100
        )
        found += _request(search.item_collection)
    return found


def _from_href(
    href: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    """Read a file or an address: items, a static catalogue, or a STAC API."""
    import pystac
    from pystac_client.stac_api_io import StacApiIO

    reader = StacApiIO()
    content = _request(reader.read_json, href)
    kind = content.get("type")
    if kind == "FeatureCollection":
        if any(link.get("rel") == "next" for link in content.get("links", [])):
            raise CubeError(
                f"{href} is one page of several; give the address of the archive, "
                "or save a whole search with its item_collection().save_object()."
            )
        return _with_absolute_hrefs(pystac.ItemCollection.from_dict(content), href)
    if any(link["rel"] == "search" for link in content.get("links", [])):
        return _search(href, archive, box, period)
    if kind in ("Catalog", "Collection", "Feature"):
        return list(_walk(href, content, reader))
    raise CubeError(
        f"{href} must contain STAC items, a catalogue or an API, got type {kind!r}."
    )


def _with_absolute_hrefs(items: Iterable[Item], href: str) -> list[Item]:
    """Return the items of a file, with asset addresses resolved against the file's."""
    from pystac.utils import make_absolute_href

    found = list(items)
    for item in found:
        for asset in item.assets.values():
            if item.get_self_href() is None:
                asset.href = make_absolute_href(asset.href, href)
    return found


def _walk(root: str, content: dict[str, Any], reader: StacApiIO) -> Iterator[Item]:
    """Yield the items of a static catalogue, through its links."""
    from pystac import Item
    from pystac.utils import make_absolute_href

    waiting, known = [(root, content)], {root}
    while waiting:
        href, one = waiting.pop()
        if one.get("type") == "Feature":
            yield Item.from_dict(one, href=make_absolute_href(href))
            continue
        for link in one.get("links", []):
            target = make_absolute_href(link["href"], href)
            if link["rel"] in ("child", "item") and target not in known:
                known.add(target)
                waiting.append((target, _request(reader.read_json, target)))


def _request(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a network call returns; raise its errors as one sentence."""
    import pystac
    from pystac_client.exceptions import APIError
    from requests import RequestException

    try:
        return call(*arguments, **options)
    except (APIError, RequestException, pystac.STACError, ValueError) as error:
        where = arguments[0] if arguments else "the archive"
        raise CubeError(f"{where} cannot be read as STAC: {error}") from error
