"""A hook of mkdocs: links that leave docs/ lead to the pages that `reference.py` makes of those files."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<heading>#[^)\s]*)?\)")
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def place(path: str) -> str:
    """Where the file at `path` of the checkout is in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return MOVED.get(path, f"reference/files/{path}.md")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links as the site has them."""
    here = page.file.src_uri
    source = {moved: path for path, moved in MOVED.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        path = posixpath.relpath(place(target), posixpath.dirname(here) or ".")
        return f"]({path}{link['heading'] or ''})"

    return markdown if here.startswith("reference/") else LINK.sub(moved, markdown)
