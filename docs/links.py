"""Check that every link inside the built site leads somewhere.

``python docs/links.py build/docs`` names each link to a file or an anchor that is not
there, and ends with 1 if there is any. Addresses of other sites are left to
``make linkcheck``.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, and what it is called."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """Yield "page: link" for every link within a site that leads nowhere."""
    site = site.resolve()
    # What themes keep among their files are templates, and no pages.
    found = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    pages = {path: Page(path.read_text("utf-8")) for path in found}
    return sorted(
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for link in set(page.links)
        if _is_inside(link) and not _leads_somewhere(link, path, pages)
    )


def _is_inside(link: str) -> bool:
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def _leads_somewhere(link: str, source: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    target = (source.parent / unquote(parts.path)).resolve() if parts.path else source
    if target not in pages:
        return target.is_file()
    return unquote(parts.fragment) in pages[target].anchors


def main() -> None:
    """Check the site that the first argument names."""
    site = Path(sys.argv[1])
    broken = broken_links(site)
    for line in broken:
        print(line)
    count = len(list(site.rglob("*.html")))
    if count == 0:
        sys.exit(f"{site} has no pages; run make docs first.")
    print(f"{count} pages, {len(broken)} broken links")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
