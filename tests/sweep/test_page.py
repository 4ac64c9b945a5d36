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


def test_numbers_stand_to_the_right_and_words_are_not_broken(tmp_path: Path) -> None:
    """Classes of cells as the style sheet has them; only long cells may be broken into lines."""
    long = "The city of Ottawa is the capital of Canada, as everybody there knows."
    rows = [
        ["a", "+2.5 [+1.6, +3.4]", "p = 0.03", "< 1e-15", "–", "ablated", long],
        ["b", "nan", "p < 1e-15", "0.2", "3 %", "", "short"],
    ]
    table = Table(["name", "adds", "p", "Holm", "share", "edit", "text"], rows)
    wanted = ["words", "number", "number", "number", "number", "words", "long"]
    assert table.looks == wanted
    section = Section("Numbers", tables=[table])
    text = write_page(tmp_path, Page("", "", "", "", [section]), {}).read_text()
    tags = _Tags()
    tags.feed(text)
    cells = [fields["class"] for one, fields in tags.tags if one == "td" and "class" in fields]
    assert cells == wanted[1:] * 2
    rules = dict(re.findall(r"^\.facts\.numbers ([^{]*) \{([^}]*)\}", text, re.MULTILINE))
    assert "white-space: nowrap" in rules["td"] and "overflow-wrap: break-word" in rules["td"]
    assert "white-space: normal" in rules["td.long"] and "text-align: right" in rules[".number"]


def test_a_picture_is_shown_at_the_size_it_was_drawn_for(tmp_path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    from aim_plugins.sweep.figures import DPI, STYLE, render

    with matplotlib.rc_context(STYLE):
        drawn = render(Figure(figsize=(6.0, 4.0), dpi=DPI))["png"]
    page = Page("", "", "", "", [Section("One", pictures={"six inches": drawn})])
    assert "max-width: min(100%, 672px)" in write_page(tmp_path, page, {}).read_text()


def test_a_table_without_rows_has_its_headings() -> None:
    assert Table(["name", "value"], []).looks == ["words", "words"]
