"""Claims about the report page; some are checked in a real browser where there is one."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shutil
import subprocess
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import binomtest

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.report import write_report
from aim_plugins.sweep.report_data import ImageSample, TextSample, embed_json
from aim_plugins.sweep.table import Point

AXES = [Axis("std", "σ", "noise std", "logits", low=0.0)]
STRENGTHS = [0.0, 0.5, 1.0]
HOSTILE = (
    "</script><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"><!-- \u2028 &lt; '\"\ud800 ✓"
)
MANIFEST = {
    "created": "2026-01-02T03:04:05+00:00",
    "arguments": {"pretrained": "models/Tiny-Llama", "noise_std": STRENGTHS},
    "versions": {"torch": "2.14.1"},
    "model_fingerprint": "sha256:abc",
    "command": ["aim-plugins", "sweep", "--tasks", "a b"],
}


def points(task="capitals", metric="acc", values=(0.75, 0.5, 0.25), stderr=0.025):
    return [
        Point(task, metric, strength, value, stderr, 240, 0 if "expected" in metric else 3)
        for strength, value in zip(STRENGTHS, values, strict=True)
    ]


def sample(doc_id=7, text=" Paris", prompt="Capital of France?", target="Paris"):
    return TextSample(
        doc_id,
        prompt,
        target,
        texts={0.0: text, 0.5: " Lyon", 1.0: ""},
        scores={0.0: 1.0, 0.5: 0.0, 1.0: 0.25},
    )


@pytest.fixture
def page(tmp_path) -> str:
    path = write_report(
        tmp_path,
        points() + points(metric="acc_expected") + points("cities", "exact_match"),
        MANIFEST,
        {"cities": [sample(7), sample(8, " Rome")]},
        chance={("capitals", "acc"): 0.25},
        axes=AXES,
    )
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag of a page, and the content of its scripts, as an HTML parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if self._raw:
            if self.scripts and self.tags[-1][0] == "script":
                self.scripts[-1] += data
        else:
            self.text += data


def data_of(page: str) -> dict:
    return json.loads(Elements(page).scripts[0])


def test_the_same_sweep_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, points(), MANIFEST, {"capitals": [sample()]}, axes=AXES)
    first, again = ((tmp_path / name / "report.html").read_bytes() for name in ("a", "b"))
    assert first == again


def test_the_page_says_what_it_found_in_one_sentence(page):
    assert (
        "Tiny-Llama on 2 tasks at 3 strengths from 0 to 1: acc of capitals falls from 0.750 to "
        "0.250; exact_match of cities falls from 0.750 to 0.250." in Elements(page).text
    )


def test_the_page_names_data_and_subject_at_its_top(tmp_path):
    some = points() + points("cities")
    for subject in ("concept of 2 words: coast, ferry", "concept: the <sea>"):
        page = write_report(tmp_path, some, MANIFEST, axes=AXES, subject=subject).read_text("utf-8")
        head = page[page.index("<h1>") : page.index("</header>")]
        assert f"capitals, cities; {html.escape(subject)}" in head


def test_panels_of_one_quantity_have_the_same_kind_of_axis(tmp_path):
    some = points(metric="perplexity", values=(20.0, 30.0, 2000.0))
    some += points("cities", "perplexity", (20.0, 30.0, 40.0))
    page = write_report(tmp_path, some, MANIFEST, axes=AXES).read_text(encoding="utf-8")
    assert [curve["log"] for curve in data_of(page)["curves"]] == [True, True]


def test_the_page_holds_every_point_exactly(page):
    curve, other = data_of(page)["curves"]
    assert (curve["task"], curve["metric"], curve["chance"]) == ("capitals", "acc", 0.25)
    assert [p["strength"] for p in curve["sampled"]] == STRENGTHS
    assert [p["value"] for p in curve["exact"]] == [0.75, 0.5, 0.25]
    for sampled in curve["sampled"]:
        assert sampled["high"] - sampled["low"] == pytest.approx(2 * 1.97 * 0.025, rel=0.01)
        assert sampled["low"] < sampled["value"] < sampled["high"]
    assert (other["task"], other["exact"], other["chance"]) == ("cities", [], None)


def test_a_share_has_wilsons_interval(tmp_path):
    some = [Point("quiz", "acc", 0.5, 0.0, 0.0, 40, 1)]
    page = write_report(tmp_path, some, MANIFEST, axes=AXES).read_text(encoding="utf-8")
    (point,) = data_of(page)["curves"][0]["sampled"]
    law = binomtest(0, 40).proportion_ci(0.95, method="wilson")
    assert (point["low"], point["high"]) == pytest.approx((law.low, law.high), rel=1e-4)


@pytest.mark.parametrize("law", [True, False])
def test_the_law_of_noise_is_explained_only_where_there_is_one(tmp_path, law):
    some = points() + (points(metric="acc_expected") if law else [])
    page = write_report(tmp_path, some, MANIFEST, axes=AXES).read_text(encoding="utf-8")
    assert ("exact expectation over the noise" in page) == law


def test_the_table_shows_values_with_the_intervals_of_the_curves(page):
    cells = re.findall(r"<td data-key=\"([^\"]*)\">([^<]*)<span class=\"quiet\">([^<]*)<", page)
    drawn = data_of(page)["curves"][0]["sampled"][0]
    assert ("0.75", "0.750 ", f"[{drawn['low']:.3f}, {drawn['high']:.3f}]") in cells
    assert len(cells) == 9  # three strengths of acc, acc_expected and exact_match
    assert "±" not in page[page.index('id="table"') : page.index('id="provenance"')]


def test_the_saved_csv_holds_the_points(page):
    (link,) = re.findall(r'download="points.csv" href="data:text/csv;charset=utf-8,([^"]*)"', page)
    lines = list(csv.reader(urllib.parse.unquote(html.unescape(link)).splitlines()))
    assert ",".join(lines[0]) == "task,metric,strength,value,stderr,n,draws"
    assert lines[1] == ["capitals", "acc", "0.0", "0.75", "0.025", "240", "3"]
    assert len(lines) == 1 + 9


def test_provenance_is_shown_whole(page):
    text = Elements(page).text
    for expected in (
        "aim-plugins sweep --tasks 'a b'",
        "2026-01-02T03:04:05+00:00",
        "arguments.pretrained",
        "models/Tiny-Llama",
        "versions.torch",
        "sha256:abc",
    ):
        assert expected in text


def test_the_page_loads_nothing(page):
    elements = Elements(page)
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        assert attributes.get("href", "#")[:1] == "#" or attributes["href"].startswith("data:")
    (policy,) = (a["content"] for t, a in elements.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_policy_allows_exactly_the_pages_own_scripts(page):
    elements = Elements(page)
    (policy,) = (a["content"] for t, a in elements.tags if "http-equiv" in a)
    allowed = re.search(r"script-src ([^;]*);", policy).group(1).split()
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in elements.scripts[1:]
    ]
    assert allowed == [f"'sha256-{digest}'" for digest in digests]


@pytest.mark.parametrize("place", ["text", "prompt", "target", "doc_id"])
def test_hostile_samples_stay_data(tmp_path, place):
    harmless = Elements(
        write_report(tmp_path, points(), MANIFEST, {"capitals": [sample()]}, axes=AXES).read_text()
    )
    write_report(
        tmp_path, points(), MANIFEST, {"capitals": [sample(**{place: HOSTILE})]}, axes=AXES
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Elements(page).tags == harmless.tags
    (document,) = data_of(page)["texts"]["capitals"]["documents"]
    shown = {"text": document["texts"][0], "doc_id": document["id"], **document}[place]
    assert shown == HOSTILE


def test_hostile_names_stay_text(tmp_path):
    name = HOSTILE.replace("\ud800", "")  # a surrogate cannot be part of a name in a file
    manifest = MANIFEST | {"model": name, "command": name, "note": {name: name}}
    some = points(task=name, metric=name)
    page = write_report(tmp_path, some, manifest, {name: [sample()]}, axes=AXES).read_text(
        encoding="utf-8"
    )
    elements = Elements(page)
    assert len(elements.scripts) == 3
    assert "img" not in {tag for tag, _ in elements.tags}
    assert not any("onerror" in attributes for _, attributes in elements.tags)


def test_embedded_json_keeps_its_meaning():
    data = {"</script>": ["<!--", "&amp;", "\u2028", HOSTILE], "x": [0.1 + 0.2, True, None]}
    text = embed_json(data)
    assert json.loads(text) == data
    assert not set(text) & set("<>&\u2028")


def test_numbers_that_json_lacks_become_null(tmp_path):
    some = points(values=(math.inf, math.nan, 0.5), stderr=math.nan)
    page = write_report(tmp_path, some, MANIFEST, axes=AXES).read_text(encoding="utf-8")
    (curve,) = data_of(page)["curves"]
    assert [p["value"] for p in curve["sampled"]] == [None, None, 0.5]
    assert [p["low"] for p in curve["sampled"]] == [None] * 3
    assert [p["high"] for p in curve["sampled"]] == [None] * 3


def test_a_sweep_without_texts_has_no_viewer(tmp_path):
    page = write_report(tmp_path, points(), {}, axes=AXES).read_text(encoding="utf-8")
    assert 'id="texts"' not in page
    assert (
        'id="texts"'
        in write_report(tmp_path, points(), {}, {"a": [sample()]}, axes=AXES).read_text()
    )


def test_a_text_missing_at_some_strength_is_left_open(tmp_path):
    samples = [TextSample(0, "p", "t", {0.0: "a"}), TextSample(1, "p", "t", {1.0: "b"})]
    page = write_report(tmp_path, points(), {}, {"capitals": samples}, axes=AXES).read_text()
    texts = data_of(page)["texts"]["capitals"]
    assert texts["strengths"] == ["0", "1"]
    assert [document["texts"] for document in texts["documents"]] == [["a", None], [None, "b"]]


def test_no_points_are_refused(tmp_path):
    with pytest.raises(ValueError, match="points is empty"):
        write_report(tmp_path, [], MANIFEST, axes=AXES)
    assert list(tmp_path.iterdir()) == []


def png(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(content, "PNG")
    return content.getvalue()


def image(name="street.jpg", **changes) -> ImageSample:
    sample = {
        "pictures": {std: png((round(255 * std), 0, 0)) for std in STRENGTHS},
        "captions": {0.0: "all right", 0.5: "half right"},
        "references": {"ground truth": png((0, 0, 255))},
        "legend": {"road": "#804080"},
    }
    return ImageSample(name, **(sample | changes))


def decoded(source: str) -> tuple[int, ...]:
    """The colour of a picture of one colour, from its data URI."""
    head, _, content = source.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content))).getpixel((0, 0))


def test_the_page_holds_the_pictures_of_every_strength(tmp_path):
    path = write_report(tmp_path, points(), MANIFEST, images={"capitals": [image()]}, axes=AXES)
    images = data_of(path.read_text(encoding="utf-8"))["images"]["capitals"]
    assert images["strengths"] == ["0", "0.5", "1"]
    (document,) = images["documents"]
    assert [decoded(source)[0] for source in document["pictures"]] == [0, 128, 255]
    ((title, source),) = document["references"]
    assert (title, decoded(source)) == ("ground truth", (0, 0, 255))
    assert document["captions"] == ["all right", "half right", None]
    assert document["legend"] == [["road", "#804080"]]


def test_images_of_several_tasks_have_viewers_of_their_own(tmp_path):
    images = {"a": [image()], "b": [image(), image("other.jpg")], "c": []}
    page = write_report(tmp_path, points(), MANIFEST, images=images, axes=AXES).read_text(
        encoding="utf-8"
    )
    viewers = [a["data-images"] for _, a in Elements(page).tags if "data-images" in a]
    assert viewers == ["a", "b"]
    assert 'id="texts"' not in page
    assert 'id="images"' not in write_report(tmp_path, points(), MANIFEST, axes=AXES).read_text()


def test_the_page_with_images_loads_nothing(tmp_path):
    page = write_report(
        tmp_path, points(), MANIFEST, images={"a": [image()]}, axes=AXES
    ).read_text()
    for tag, attributes in Elements(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes


def test_hostile_images_stay_data(tmp_path):
    def page_of(sample: ImageSample) -> str:
        return write_report(
            tmp_path, points(), MANIFEST, images={"a": [sample]}, axes=AXES
        ).read_text()

    picture = png((0, 0, 0))
    hostile = image(
        HOSTILE,
        captions={0.0: HOSTILE},
        references={HOSTILE: picture},
        legend={HOSTILE: "url(https://example.org)"},
    )
    page = page_of(hostile)
    assert Elements(page).tags == Elements(page_of(image())).tags
    (document,) = data_of(page)["images"]["a"]["documents"]
    assert document["name"] == document["captions"][0] == HOSTILE


def test_a_picture_of_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no PNG, JPEG, GIF or WebP"):
        write_report(
            tmp_path, points(), {}, images={"a": [image(pictures={0.0: b"<svg/>"})]}, axes=AXES
        )
    assert list(tmp_path.iterdir()) == []


def test_published_figures_are_a_series_of_their_own(tmp_path):
    theirs = [Point("capitals", "acc_published", 1.0, 0.3, None, 240, 0)]
    page = write_report(tmp_path, points() + theirs, MANIFEST, axes=AXES).read_text(
        encoding="utf-8"
    )
    (curve,) = data_of(page)["curves"]
    assert [p["value"] for p in curve["sampled"]] == [0.75, 0.5, 0.25]
    assert [(p["strength"], p["value"]) for p in curve["published"]] == [(1.0, 0.3)]
    assert "Diamonds are figures that others report" in page
    assert "Diamonds" not in write_report(tmp_path, points(), MANIFEST, axes=AXES).read_text()


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium to look with")


def see(path: Path, profile: Path) -> str:
    """What a browser makes of a page, scripts run."""
    result = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=4000",
            "--window-size=1280,3000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def content(dom: str, css_class: str) -> str:
    match = re.search(rf'<(pre|span) class="{css_class}[ "][^>]*>(.*?)</\1>', dom, re.DOTALL)
    return html.unescape(match.group(2))


@needs_browser
def test_in_a_browser_the_curves_are_drawn_and_hostile_text_is_only_read(tmp_path):
    hostile = HOSTILE.replace("\ud800", "")
    item = TextSample(0, hostile, "t", {0.0: hostile, 1.0: hostile}, {0.0: 0.0, 1.0: 1.0})
    some = points() + points(metric="acc_expected") + points(metric="<b>odd</b>")
    path = write_report(tmp_path, some, MANIFEST, {"capitals": [item]}, axes=AXES)
    dom = see(path, tmp_path / "profile")
    assert "<title>Tiny-Llama: quality against strength</title>" in dom
    assert dom.count('data-drawn="yes"') == 2
    # Beside a task of that name "mean" would be a riddle.
    assert "sampled, n = 240, 3 draws" in dom and "measured, n = 240, 3 draws" in dom
    assert dom.count('class="trace scatter') == 4  # law and samples; band and line
    assert content(dom, "prompt") == content(dom, "text") == hostile
    assert content(dom, "mark") == "✓ right"


@needs_browser
def test_in_a_browser_slider_chooser_and_sorting_work(tmp_path):
    texts = {"cities": [sample(7), sample(8, " Rome", target="Rome")]}
    path = write_report(tmp_path, points("cities"), MANIFEST, texts, axes=AXES)
    page = path.read_text(encoding="utf-8")
    # The page's own policy would refuse the script that plays the reader.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    reader = """<script>
      const seen = [], look = (css) => document.querySelector(css).textContent;
      const slider = document.querySelector("input[type=range]");
      const move = (to) => { slider.value = to; slider.dispatchEvent(new Event("input")); };
      const note = () => seen.push([look("output"), look(".text"), look(".mark"), look(".target")]);
      note(); move(0); note(); move(2); note();
      document.querySelector("[data-step='1']").click(); move(0); note();
      document.querySelector("[data-step='1']").click(); note();
      const cells = document.getElementsByTagName("th");
      const rows = () => Array.from(cells, (cell) => cell.scope === "row" && cell.dataset.key
        ? cell.textContent : null).filter((text) => text !== null);
      document.querySelectorAll(".sortable thead button")[1].click(); seen.push(rows());
      document.querySelectorAll(".sortable thead button")[1].click(); seen.push(rows());
      document.getElementById("theme").click(); seen.push(document.documentElement.dataset.theme);
      const out = document.createElement("pre");
      out.className = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
    </script></body>"""
    path.write_text(page.replace("</body>", reader), encoding="utf-8")
    assert json.loads(content(see(path, tmp_path / "profile"), "seen")) == [
        ["0.5", " Lyon", "✗ wrong", "Paris"],
        ["0", " Paris", "✓ right", "Paris"],
        ["1", "(nothing)", "score 0.250", "Paris"],
        ["0", " Rome", "✓ right", "Rome"],
        ["0", " Paris", "✓ right", "Paris"],
        ["1", "0.5", "0"],
        ["0", "0.5", "1"],
        "dark",
    ]


def played(path: Path, reader: str, profile: Path) -> list:
    """What a script that plays the reader of a page saw."""
    page = path.read_text(encoding="utf-8")
    # The page's own policy would refuse the script.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    end = """const out = document.createElement("pre");
      out.className = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);"""
    path.write_text(
        page.replace("</body>", f"<script>const seen = []; {reader} {end}</script></body>"),
        encoding="utf-8",
    )
    return json.loads(content(see(path, profile), "seen"))


@needs_browser
def test_in_a_browser_the_slider_changes_the_picture(tmp_path):
    # An answer alone, as of a classifier, stands where the picture would be.
    answer = image("dog.jpg", pictures={}, captions={1.0: "dog\ncat"}, scores={1.0: 1.0})
    images = {"capitals": [image(), answer]}
    path = write_report(tmp_path, points(), MANIFEST, images=images, axes=AXES)
    reader = """
      const find = (css) => document.querySelector(css);
      const slider = find("[data-images] input");
      const move = (to) => { slider.value = to; slider.dispatchEvent(new Event("input")); };
      const note = () => {
        const frames = Array.from(document.querySelectorAll(".frames > :not([hidden])"));
        seen.push([find("[data-images] output").textContent, frames.map((f) => f.alt || ""),
          find(".caption").textContent, find("[data-images] .mark").textContent]);
      };
      note(); move(0); note(); move(2); note();
      seen.push(Array.from(document.querySelectorAll(".reference"), (r) => r.textContent));
      seen.push(find(".legend").textContent, getComputedStyle(find(".legend i")).backgroundColor);
      find("[data-images] [data-step='1']").click(); note();
      seen.push(document.querySelectorAll(".reference").length, find("[data-images]").className);
    """
    assert played(path, reader, tmp_path / "profile") == [
        ["0.5", ["street.jpg at strength 0.5"], "half right", ""],
        ["0", ["street.jpg at strength 0"], "all right", ""],
        ["1", ["street.jpg at strength 1"], "", ""],
        ["ground truth"],
        "road",
        "rgb(128, 64, 128)",
        ["1", [""], "dog\ncat", "✓ right"],
        1,
        "card viewer captioned",
    ]
