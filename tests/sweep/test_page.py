"""A report page: whole, escaped, the same bytes each time, and without a request."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aim_plugins.sweep.page import Exhibit, Page, Section, Table, write_page

# The smallest PNG: one grey pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
EVIL = "<img src=x onerror=alert(1)>"


def page(text: str = "words") -> Page:
    section = Section(
        f"First {text}",
        note=text,
        sentences=[text, "another"],
        pictures={text: PNG},
        tables=[Table(["name", "value"], [[text, "1"]], title=text)],
        exhibits=[Exhibit({text: PNG, "other": PNG}, text, text)],
    )
    return Page("Coverage", text, text, text, [section, Section("Second")])


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    text = write_page(tmp_path, page(EVIL), {"model": EVIL, "command": ["run", EVIL]}).read_text()
    tags = _Tags()
    tags.feed(text)
    assert not [one for one, fields in tags.tags if one == "img" and fields["src"] == "x"]
    assert not [one for one, _ in tags.tags if one == "script"]


def test_nothing_is_fetched(tmp_path: Path) -> None:
    text = write_page(tmp_path, page(), {}).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text)


def test_the_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    first = write_page(tmp_path, page(), {"command": "run x"}).read_bytes()
    assert write_page(tmp_path, page(), {"command": "run x"}).read_bytes() == first


def test_every_link_of_the_page_leads_to_a_section(tmp_path: Path) -> None:
    text = write_page(tmp_path, page("a b"), {}).read_text()
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert targets == set(re.findall(r'<section id="([^"]+)"', text))
    assert targets == {"first-a-b", "second", "provenance"}


def test_a_picture_of_no_known_format_is_refused(tmp_path: Path) -> None:
    bad = Page("a", "b", "c", "d", [Section("e", pictures={"f": b"BM.."})])
    with pytest.raises(ValueError, match="no PNG"):
        write_page(tmp_path, bad, {})
    assert not list(tmp_path.iterdir())
