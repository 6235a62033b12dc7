"""Hook of the site: links to files outside `docs/`, which have no page there.

A picture is copied into the site; any other link becomes its text. On GitHub both lead to the file.
One to a file that does not exist fails the build.
"""
# ruff: noqa: INP001 - loaded by its path, not a package

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

HOME = Path(__file__).resolve().parents[1]
DOCS = HOME / "docs"
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, *, config: Any) -> Any:  # noqa: ANN401 - MkDocs passes and takes them
    """Add the pictures outside `docs/` that a page shows."""
    for page in files.documentation_pages():
        for link in _LINK.finditer((DOCS / page.src_uri).read_text(encoding="utf-8")):
            path = _outside(link[3], page.src_uri)
            if link[1] and path and path.is_file():
                name = path.relative_to(HOME).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_given: object) -> str:  # noqa: ANN401
    """Return the text of a page with the links that the site has.

    Raises:
        ValueError: A link leads to no file of the repository.
    """

    def replaced(link: re.Match[str]) -> str:
        path = _outside(link[3], page.file.src_uri)
        if path is None:
            return link[0]
        if not path.exists():
            raise ValueError(f"{page.file.src_uri}: the link {link[3]} leads to no file")
        if not link[1]:
            return link[2]
        start = Path(page.file.src_uri).parent.as_posix()
        return f"![{link[2]}]({os.path.relpath(path.relative_to(HOME), start)})"

    parts = _FENCE.split(markdown)  # every second one is code
    return "".join(part if i % 2 else _LINK.sub(replaced, part) for i, part in enumerate(parts))


def _outside(target: str, page: str) -> Path | None:
    """Return the file outside `docs/` that a link of a page leads to; None for other links."""
    name = target.partition("#")[0]
    path = Path(os.path.normpath((DOCS / page).parent / name))
    return None if not name or "://" in name or path.is_relative_to(DOCS) else path
