"""What mkdocs does with our pages besides: pages from the root, links out of docs/, the report."""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from plotly.offline import get_plotlyjs

from jetfold.bench.results import Results
from jetfold.report.page import Input, embedded

ROOT = Path(__file__).parent.parent
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SUPPORT.md", "SECURITY.md")
"""Pages that stand in the root, where people look for them."""

MEASURED = Path("docs", "results", "paper.json")
MARK = "<!-- report -->"
PLOTLY = "assets/plotly.js"


def on_files(files: Any, config: Any) -> Any:
    """Take the pages of the root in, as if they stood in docs/; and what draws the report."""
    files.append(File.generated(config, PLOTLY, content=get_plotlyjs()))
    for name in PAGES:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to files outside of docs/ at the repository; refuse those that are not there."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def pointed(match: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, match[1]))
        if place.startswith("docs/"):
            return match[0]
        if not (ROOT / place).exists():
            raise PluginError(f"{page.file.src_uri} links to {place}, which is not there")
        return f"]({SOURCE}/blob/main/{place})"

    return re.sub(r"\]\((\.\./[^)#\s]+)\)", pointed, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put the report in its place."""
    if MARK not in html:
        return html
    report = embedded(Input(MEASURED, Results.load(ROOT / MEASURED)))
    return html.replace(MARK, f'<script src="{PLOTLY}"></script>\n{report}')
