"""STAC items from an archive, an API, a catalogue, a file, or a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import parts
from geobiomass.outside_text import one_line
from geobiomass.sources.stac.addresses import Guard, place_of
from geobiomass.sources.stac.archives import ARCHIVES, Archive, Box
from geobiomass.sources.stac.period import Period

if TYPE_CHECKING:
    from pystac import Item

    from geobiomass.sources.stac.guarded_requests import GuardedIO

CATALOGUE = "geobiomass:catalogue"
"""Field of items that were read here: the catalogue that they are from."""

_MOST = 100_000  # items or documents: a year of a continent has fewer


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
        return item_of(one)
    raise CubeError(
        f"Each of items must be a STAC item, got {type(one).__name__}; from a "
        "catalogue, pass its items, catalog.get_items(recursive=True)."
    )


def _search(
    url: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    from pystac_client import Client

    from geobiomass.sources.stac.guarded_requests import GuardedIO

    if period is None:
        raise CubeError(f"A search of {url} needs months, such as '2023-09:2024-08'.")
    searched = [archive] if archive is not None else list(ARCHIVES.values())
    names = {name for one in searched for name in (*one.optical, *one.radar)}
    client = _request(Client.open, url, stac_io=GuardedIO(Guard(url)))
    found: list[Item] = []
    for part in parts(box):  # not every server takes a box across 180 degrees
        search = _request(
            client.search,
            collections=sorted(names),
            bbox=part,
            datetime=period.span,
            limit=100,
        )
        found += _request(_items_of_search, search, url)
    return found


def _items_of_search(search: Any, url: str) -> list[Item]:
    """Return the items of all pages, of which a server may send any number."""
    found: list[Item] = []
    for page in search.pages_as_dicts():
        for one in _list_of(page, "features", url):
            found.append(item_of(one, root=search.client))
        if len(found) > _MOST:
            raise CubeError(
                f"A search of {url} must have at most {_MOST:,} items, got more; "
                "search a smaller area."
            )
    return found


def _from_href(
    href: str, archive: Archive | None, box: Box, period: Period | None
) -> list[Item]:
    """Read a file or an address: items, a static catalogue, or a STAC API."""
    from geobiomass.sources.stac.guarded_requests import GuardedIO

    reader = GuardedIO(Guard(href))
    content = _request(reader.read_json, href)
    kind = content.get("type")
    links = _list_of(content, "links", href)
    if kind == "FeatureCollection":
        if any(link.get("rel") == "next" for link in links):
            raise CubeError(
                f"{href} is one page of several; give the address of the archive, "
                "or save a whole search with its item_collection().save_object()."
            )
        items = [item_of(one) for one in _list_of(content, "features", href)]
        return [_from(item, href) for item in items]
    if any(link.get("rel") == "search" for link in links):
        return _search(href, archive, box, period)
    if kind in ("Catalog", "Collection", "Feature"):
        return list(_walk(href, content, reader))
    raise CubeError(
        f"{href} must contain STAC items, a catalogue or an API, got type {kind!r}."
    )


def _from(item: Item, catalogue: str) -> Item:
    """Return an item of a file, with addresses resolved against the file's."""
    if item.get_self_href() is None:
        for name, asset in item.assets.items():
            what = f"Asset {one_line(name)} of item {one_line(item.id)}"
            asset.href = _absolute(asset.href, catalogue, what)
    item.extra_fields[CATALOGUE] = _absolute(catalogue, None, "The catalogue")
    return item


def _absolute(href: Any, base: str | None, what: str) -> str:
    from pystac.utils import make_absolute_href

    try:
        return make_absolute_href(href, base)
    except (AttributeError, TypeError, ValueError) as error:
        raise CubeError(
            f"{what} must have an address, got {href!r} ({error}); leave it out."
        ) from error


def _walk(root: str, content: dict[str, Any], reader: GuardedIO) -> Iterator[Item]:
    """Yield the items of a static catalogue, through its links."""
    waiting, known = [(root, content)], {root}
    while waiting:
        href, one = waiting.pop()
        if one.get("type") == "Feature":
            item = item_of(one, href=_absolute(href, None, "The item"))
            item.extra_fields[CATALOGUE] = _absolute(root, None, "The catalogue")
            yield item
            continue
        for link in _list_of(one, "links", href):
            if link.get("rel") not in ("child", "item"):
                continue
            target = _absolute(link.get("href"), href, f"A link of {href}")
            if target not in known:
                known.add(target)
                waiting.append((target, _request(reader.read_json, target)))
        if len(known) > _MOST:
            raise CubeError(
                f"The catalogue {root} must have at most {_MOST:,} documents, got "
                "more; give one of its parts, or search an API."
            )


def item_of(content: Any, href: str | None = None, root: Any = None) -> Item:
    """Return a STAC item from its JSON.

    Raises
    ------
    CubeError
        If it is not one, with its id.
    """
    import pystac

    try:
        return pystac.Item.from_dict(dict(content), href=href, root=root)
    except (
        *(AttributeError, KeyError, IndexError, TypeError, ValueError),
        *(OverflowError, RecursionError, pystac.STACError),
    ) as error:
        name = content.get("id") if isinstance(content, Mapping) else content
        raise CubeError(
            f"Item {str(name)[:200]!r} is not a STAC item ({error!r}); leave it out."
        ) from error


def _list_of(content: Mapping[str, Any], name: str, href: str) -> list[dict[str, Any]]:
    """Return a list of objects in a document; empty if it has none."""
    found = content.get(name) or []
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return found
    raise CubeError(f"{name} of {href} must be a list of objects, got something else.")


def catalogue_of(item: Item) -> str | None:
    """Return where an item comes from: its catalogue, or None for the user's code.

    An item from a search knows the API. Another one says where it is itself, which
    counts if that is on the internet: an item cannot gain anything by it.
    """
    from pystac import STACObject

    link = item.get_root_link()
    root = link.target if link is not None and link.is_resolved() else None
    search = root.get_self_href() if isinstance(root, STACObject) else None
    read = item.extra_fields.get(CATALOGUE)
    own = item.get_self_href()
    for known in (read, search):
        if isinstance(known, str):
            return known
    return own if isinstance(own, str) and place_of(own) != "file" else None


def _request(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a network call returns; raise its errors as one sentence."""
    import pystac
    from pystac_client.exceptions import APIError
    from requests import RequestException

    try:
        return call(*arguments, **options)
    except CubeError:
        raise
    except (
        *(APIError, RequestException, pystac.STACError, OSError, ValueError),
        *(AttributeError, KeyError, TypeError, RecursionError),  # of pystac
    ) as error:
        where = next((one for one in arguments if isinstance(one, str)), "The archive")
        raise CubeError(f"{where} cannot be read as STAC: {error}") from error
