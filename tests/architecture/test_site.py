"""The docs as a site: it builds strictly, without a network, and its pages load nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADING = {"script", "link", "img", "iframe", "source", "video", "audio", "embed", "object", "input"}
# relations of a <link> that fetch nothing
NAMES_ONLY = {"canonical", "prev", "next", "edit", "alternate"}
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


class Loads(HTMLParser):
    """Collects what a page fetches by itself from a server."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in LOADING or (tag == "link" and set(given.get("rel", "").split()) <= NAMES_ONLY):
            return
        places = [given.get(name, "") for name in ("src", "href", "data", "srcset", "poster")]
        self.elsewhere += [place for place in places if ELSEWHERE.match(place.strip())]


def loaded_from_elsewhere(html: str) -> list[str]:
    page = Loads()
    page.feed(html)
    return page.elsewhere


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs") is None:
        pytest.skip('mkdocs-material is not installed: pip install "unmask[docs]", or make docs')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if not (site / page).is_file()]


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    found = {page.name: loaded_from_elsewhere(page.read_text("utf-8")) for page in site.rglob("*.html")}
    assert found and not {name: urls for name, urls in found.items() if urls}
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?\s*([^\"')\s]+)", sheet.read_text("utf-8"))
        assert not [url for url in urls if ELSEWHERE.match(url)], sheet


def test_the_search_reads_its_index_from_the_disk(site: Path) -> None:
    assert (site / "search" / "search_index.js").is_file()
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text("utf-8")


def test_what_a_page_loads_is_found() -> None:
    page = """<link rel="stylesheet" href="https://fonts.example/a.css"><script src="//cdn.example/b.js"></script>
    <img src="c.png"><a href="https://example.org">text</a><link rel="canonical" href="https://example.org/">
    <script src="assets/d.js"></script>"""
    assert loaded_from_elsewhere(page) == ["https://fonts.example/a.css", "//cdn.example/b.js"]
