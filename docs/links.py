"""Hooks of mkdocs for the pages that `reference.py` makes: their place in the menu, and links from docs/ to them."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<heading>#[^)\s]*)?\)")
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def place(path: str) -> str:
    """Where the file at `path` of the checkout is in the site."""
    if path.startswith("docs/") and not path.endswith(".json"):
        return path.removeprefix("docs/")
    return MOVED.get(path, f"reference/files/{path}.md")


def on_files(files: Any, config: Any) -> None:
    """The menu with every page of settings and of the Python API."""
    made = sorted(file.src_uri for file in files if file.src_uri.startswith("reference/"))
    parts = {"Settings": "reference/settings/", "Python": "reference/api/"}
    reference = [
        "reference/index.md",
        *({name: [p for p in made if p.startswith(start)]} for name, start in parts.items()),
    ]
    config.nav = [{"Reference": reference} if "Reference" in entry else entry for entry in config.nav]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links as the site has them."""
    here = page.file.src_uri
    source = {moved: path for path, moved in MOVED.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        path = posixpath.relpath(place(target), posixpath.dirname(here) or ".")
        return f"]({path}{link['heading'] or ''})"

    return markdown if here.startswith("reference/") else LINK.sub(moved, markdown)
