"""`aim-plugins transport compare` against tables read by hand."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest

from aim_plugins.steering.compare import compare as comparison
from aim_plugins.steering.compare.compare import best_within, read_evaluated
from aim_plugins.steering.compare.plots import Line, plot_cost, plot_effect, spread
from aim_plugins.sweep.figures import render
from aim_plugins.sweep.table import Point, Row, write_table

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LINEAR = {"concept_presence": (0.1, 0.3, 0.6, 0.9, 0.8), "perplexity": (20, 20.5, 23, 24.5, 40)}
CAA = {"concept_presence": (0.1, 0.2, 0.7, 0.7, 0.9), "perplexity": (20, 21, 23.9, 23.9, 90)}
TASKS = {
    "concept_presence": ("prompts", 40),
    "toxic_probability": ("prompts", 40),
    "perplexity": ("plain", 60),
}


def evaluated(folder, values, method, strengths=STRENGTHS, recorded=(), **arguments):
    """A folder as `transport evaluate` writes it."""
    rows = [
        Row(TASKS[metric][0], metric, strength, None, value, 0.01, TASKS[metric][1])
        for metric, curve in values.items()
        for strength, value in zip(strengths, curve, strict=True)
    ]
    folder.mkdir()
    write_table(folder / "sweep.csv", rows)
    known = {"command": "transport evaluate", "method": method, "pretrained": "org/model"}
    manifest = {"arguments": known | arguments, **dict(recorded)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for strength in strengths:
        cell = folder / "cells" / f"strength={strength},draw=0"
        cell.mkdir(parents=True)
        text = {"prompt": "One day", "strength": strength, "text": f"{method} at {strength}"}
        text["scores"] = {"concept_presence": float(strength > 0.3)}
        (cell / "texts.jsonl").write_text(json.dumps(text) + "\n")
    return folder


@pytest.fixture
def folders(tmp_path):
    return evaluated(tmp_path / "a", LINEAR, "linear"), evaluated(tmp_path / "b", CAA, "caa")


@pytest.fixture
def undrawn(monkeypatch):
    for name in ("plot_effect", "plot_cost"):
        monkeypatch.setattr(comparison, name, lambda *given, **more: b"\x89PNG\r\n\x1a\n")


def read_best(folder):
    with open(folder / "compare.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("bound", [0.0, 0.2, 9.0])
def test_the_best_strength_is_that_of_a_search_by_hand(folders, tmp_path, run_command, bound):
    assert run_command("compare", *folders, "-o", tmp_path / "c", "--bound", bound) == 0
    for folder, line in zip(folders, read_best(tmp_path / "c"), strict=True):
        with open(folder / "sweep.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        cost = {r["strength"]: float(r["value"]) for r in rows if r["metric"] == "perplexity"}
        best = None
        for row in rows:  # by rising strength, so that the first of equals is the smallest
            fits = row["metric"] == "concept_presence" and cost[row["strength"]] <= 20 * (1 + bound)
            if fits and (best is None or float(row["value"]) > float(best["value"])):
                best = row
        assert best is not None
        assert (line["strength"], line["effect"]) == (best["strength"], best["value"])
        assert (line["effect_n"], line["cost_n"]) == ("40", "60")
        assert float(line["cost"]) == cost[best["strength"]]
        assert (line["plain_effect"], line["plain_cost"]) == ("0.1", "20.0")


@pytest.mark.usefixtures("undrawn")
def test_a_toxicity_is_best_where_it_is_lowest(tmp_path, run_command):
    values = {"toxic_probability": (0.4, 0.2, 0.1, 0.3, 0.05), "perplexity": LINEAR["perplexity"]}
    folder = evaluated(tmp_path / "a", values, "linear", label="toxic")
    assert run_command("compare", folder, "-o", tmp_path / "c", "--lower-is-better") == 0
    (line,) = read_best(tmp_path / "c")
    assert (line["strength"], line["effect"]) == ("0.5", "0.1")


def test_negative_strengths_are_searched_too(tmp_path):
    values = {"concept_presence": (0.9, 0.1, 0.8), "perplexity": (21.0, 20.0, 21.0)}
    folder = evaluated(tmp_path / "a", values, "linear", strengths=(-1.0, 0.0, 1.0))
    (one,) = read_evaluated([folder])
    best = best_within(one, ("prompts", "concept_presence"), ("plain", "perplexity"), bound=0.2)
    assert best.effect.strength == -1.0


def test_the_report_holds_pictures_table_and_the_texts_of_all(folders, tmp_path, run_command):
    assert run_command("compare", *folders, "-o", tmp_path / "c", "--labels", "A <b>,B") == 0
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == 2
    assert "within +20%" in page
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    texts = json.loads(data[1])["texts"]
    assert list(texts) == ["A <b>", "B"]
    assert texts["B"]["documents"][0]["texts"] == [f"caa at {s}" for s in STRENGTHS]
    for name in ("effect", "cost"):
        svg = (tmp_path / "c" / f"{name}.svg").read_text(encoding="utf-8")
        assert "A &lt;b&gt;" in svg
        assert (tmp_path / "c" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_the_intervals_of_the_curves(folders, tmp_path, run_command, capsys):
    assert run_command("compare", *folders, "-o", tmp_path / "c") == 0
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    printed = capsys.readouterr().out
    curves = [c for c in json.loads(data[1])["curves"] if c["metric"] == "concept_presence"]
    assert len(curves) == len(folders)
    for curve, best in zip(curves, read_best(tmp_path / "c"), strict=True):
        (point,) = (p for p in curve["sampled"] if p["strength"] == float(best["strength"]))
        text = f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
        assert text in printed and text in page
    assert "±" not in printed


def test_methods_that_repeat_are_named_by_their_folders(tmp_path, folders):
    third = evaluated(tmp_path / "minmax", LINEAR, "linear")
    assert [one.label for one in read_evaluated([*folders, third])] == ["a", "caa", "minmax"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--effect", "bleu"], "effect='bleu' was not measured of all.*prompts/concept_presence"),
        (["--labels", "x"], "for 2 folders"),
        (["--labels", "x,x"], "repeat"),
        (["--bound", "-0.1"], "bound=-0.1"),
        (["--bound", "nan"], "bound=nan"),
    ],
)
def test_bad_input_is_refused(folders, tmp_path, run_command, capsys, words, message):
    words = [f"{words[0]}={words[1]}"]
    assert run_command("compare", *folders, "-o", tmp_path / "c", *words) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "c").exists()


ALIKE = {
    "perplexity": {"plain": "a" * 64},
    "decoding": {"max_new_tokens": 32, "do_sample": False},
    "prompts": "b" * 64,
    "lexicon": ["sea"],
    "judge": {"model": "org/judge", "concept": "sea"},
    "max_length": None,
}
MARKS = {"model_fingerprint": "c" * 64}
OTHER_MODEL = {"model_fingerprint": "f" * 64}


@pytest.mark.parametrize(
    ("changed", "marks", "message"),
    [
        ({"prompts": "d" * 64}, {}, "effect: .*concept_presence .*prompts, b{12}… and d{12}…"),
        (
            {"decoding": {"max_new_tokens": 8, "do_sample": False}},
            {},
            "concept_presence of 'linear' and 'caa' .*another decoding.max_new_tokens, 32 and 8:",
        ),
        ({"lexicon": ["sea", "wave"]}, {}, r'lexicon, \["sea"\] and \["sea", "wave"\]:'),
        ({"perplexity": {"plain": "e" * 64}}, {}, r"cost: plain/perp.*perplexity\['plain'\]"),
        ({"pretrained": "org/other"}, OTHER_MODEL, 'pretrained, "org/model" and "org/other":'),
        ({}, OTHER_MODEL, "fingerprint of the model, c{12}… and f{12}…"),
        ({"max_length": 64}, OTHER_MODEL, "another max_length, null and 64:"),
        ({}, {"texts": {"prompts": "b" * 64, "noise_std": 3.0}}, "another noise_std, 0.0 and 3.0:"),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    tmp_path, run_command, capsys, changed, marks, message
):
    texts = {"texts": {name: ALIKE[name] for name in ("prompts", "decoding")} | {"noise_std": 0.0}}
    if "texts" not in marks:
        texts = {}
    one = evaluated(tmp_path / "a", LINEAR, "linear", recorded=MARKS | texts, **ALIKE)
    other = evaluated(tmp_path / "b", CAA, "caa", recorded=MARKS | marks, **ALIKE | changed)
    assert run_command("compare", one, other, "-o", tmp_path / "c") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "c").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changed", "marks"),
    [
        ({}, {}),
        ({"pretrained": "./the-same-model", "dtype": "float32"}, MARKS),
        ({"judge": {"model": "org/another", "concept": "wave"}}, {}),
        ({"strength": [0.0, 1.0], "tasks": {"names": ["quiz"], "limit": 5}}, {}),
        ({"perplexity": {"plain": "a" * 64, "more": "0" * 64}}, {}),
    ],
)
def test_settings_that_no_compared_metric_depends_on_may_differ(
    tmp_path, run_command, changed, marks
):
    one = evaluated(tmp_path / "a", LINEAR, "linear", recorded=marks, dtype="auto", **ALIKE)
    words = {"dtype": "auto"} | ALIKE | changed
    other = evaluated(tmp_path / "b", CAA, "caa", recorded=marks, **words)
    assert run_command("compare", one, other, "-o", tmp_path / "c") == 0


@pytest.mark.parametrize(
    ("metric", "arguments", "changed", "message"),
    [
        ("judged_presence", {}, {"judge": {"model": "org/j", "concept": "sea"}}, "another judge,"),
        ("judged_presence", {}, {"judge": {"model": "org/judge", "concept": "c"}}, "judge.concept"),
        ("toxic_probability", {"label": "toxic", "classifier": "a"}, {"classifier": "b"}, "class"),
        ("acc", {"tasks": {"names": ["q"], "limit": 5}}, {"tasks": {"limit": 9}}, "tasks.limit"),
    ],
)
def test_each_metric_is_held_to_what_measures_it(
    tmp_path, run_command, capsys, metric, arguments, changed, message
):
    folders = []
    for name, settings in (("a", {}), ("b", changed)):
        folder = evaluated(
            tmp_path / name, LINEAR, f"method {name}", **ALIKE | arguments | settings
        )
        table = folder / "sweep.csv"
        table.write_text(table.read_text().replace("concept_presence", metric), "utf-8")
        folders.append(folder)
    assert run_command("compare", *folders, "-o", tmp_path / "c", "--effect", metric) == 2
    assert message in capsys.readouterr().err


def test_folders_without_an_evaluation_are_refused(folders, tmp_path, run_command, capsys):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "no finished evaluation"), ("sweep", "another sweep")):
        if name == "sweep":
            evaluated(tmp_path / "sweep", LINEAR, "linear", command="sweep lm-eval")
        assert run_command("compare", folders[0], tmp_path / name, "-o", tmp_path / "c") == 2
        assert message in capsys.readouterr().err


def test_a_sweep_without_the_plain_model_is_refused(tmp_path, run_command, capsys):
    values = {name: curve[1:] for name, curve in LINEAR.items()}
    folder = evaluated(tmp_path / "a", values, "linear", strengths=STRENGTHS[1:])
    assert run_command("compare", folder, "-o", tmp_path / "c") == 2
    assert "lacks strength 0" in capsys.readouterr().err


def test_names_at_the_ends_of_lines_keep_their_distance_and_order():
    values = [0.0, 0.01, 0.02, 0.5, 0.52, 0.9]
    places = spread(values, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in zip(places, places[1:], strict=False))
    assert places[-1] == 0.9
    assert sum(places[:3]) == pytest.approx(sum(values[:3]))


def test_pictures_of_a_broken_model_are_drawn_and_the_same_twice(tmp_path):
    def line(name, costs):
        effects = [Point("t", "sentiment", s, s - 0.3, None, 9, 1) for s in STRENGTHS]
        return Line(
            name,
            effects,
            [
                Point("p", "perplexity", s, c, 0.1, 9, 1)
                for s, c in zip(STRENGTHS, costs, strict=True)
            ],
        )

    lines = [
        line("$a", (20, 30, 900, math.inf, math.nan)),
        *(line(f"m{index}", (20, 21, 22, 23, 24)) for index in range(9)),
    ]
    first = plot_cost(lines, tmp_path / "cost", bound=0.2), plot_effect(lines, tmp_path / "effect")
    again = plot_cost(lines, tmp_path / "cost", bound=0.2), plot_effect(lines, tmp_path / "effect")
    assert first == again


def plotted(monkeypatch, plot, *args, **kwargs):
    """The axes of a picture as it is written."""
    axes = []
    monkeypatch.setattr(
        "aim_plugins.steering.compare.plots.render",
        lambda figure: axes.extend(figure.axes) or render(figure),
    )
    plot(*args, **kwargs)
    return axes[0]


def line_of(label, effects, costs, stderr=0.5):
    strengths = range(len(effects))
    return Line(
        label,
        [
            Point("texts", "sentiment", s, e, 0.1, 9, 1)
            for s, e in zip(strengths, effects, strict=True)
        ],
        [
            Point("plain", "perplexity", s, c, stderr, 9, 1)
            for s, c in zip(strengths, costs, strict=True)
        ],
    )


BROKEN = [
    line_of("a", (0.1, 0.4, 0.6, 0.8), (20.0, 25.0, 2500.0, 3000.0)),
    line_of("b", (0.1, 0.2, 0.3, 0.4), (20.0, 24.0, 30.0, math.inf)),
]


def texts_of(axes):
    return [text for text in axes.texts if text.get_text()]


def test_a_line_that_leaves_the_frame_has_a_mark_there_and_its_points_are_counted(
    monkeypatch, tmp_path
):
    axes = plotted(monkeypatch, plot_cost, BROKEN, tmp_path / "cost", bound=0.2)
    edge = axes.get_xlim()[1]
    assert 200 < edge < 2500
    (mark,) = [line for line in axes.lines if line.get_marker() == ">"]
    # Straight between (25, 0.4) and (2500, 0.6) on a logarithmic axis.
    height = 0.4 + 0.2 * math.log(edge / 25) / math.log(2500 / 25)
    assert mark.get_xdata() == pytest.approx([edge])
    assert mark.get_ydata() == pytest.approx([height])
    (note,) = [text for text in texts_of(axes) if "intervals" in text.get_text()]
    assert note.get_text().endswith("95 % intervals, ▸ 2 points beyond, 1 without a number")


def test_a_picture_that_shows_all_says_nothing_of_points_beyond(monkeypatch, tmp_path):
    lines = [line_of("a", (0.1, 0.4), (20.0, 30.0), stderr=4.0)]
    axes = plotted(monkeypatch, plot_cost, lines, tmp_path / "cost", bound=0.2)
    assert not any(line.get_marker() == ">" for line in axes.lines)
    assert not any("beyond" in text.get_text() for text in texts_of(axes))
    low, high = axes.get_xlim()
    assert low < 20 - 1.96 * 4 and high > 30 + 1.96 * 4


def test_labels_lie_on_no_curve(monkeypatch, tmp_path):
    steep = [
        line_of(str(k), (0.05 * k, 0.3 + 0.1 * k, 0.6, 0.9 - 0.05 * k), (20.0, 20.5, 21.0, 40.0))
        for k in range(5)
    ]
    axes = plotted(monkeypatch, plot_cost, steep, tmp_path / "cost", bound=0.2)
    labels = [text for text in texts_of(axes) if "intervals" not in text.get_text()]
    assert {"λ = 0", "+20%"} < {text.get_text() for text in labels}
    share = np.linspace(0, 1, 500)[:, None]
    for line in steep:
        corners = axes.transData.transform([(x.value, y.value) for x, y in line.pairs])
        for start, end in zip(corners, corners[1:], strict=False):
            for text in labels:
                box = text.get_window_extent()
                assert box.count_contains(start + share * (end - start)) == 0, text.get_text()


def test_plain_models_of_unlike_perplexities_have_no_common_line(monkeypatch, tmp_path):
    lines = [line_of("a", (0.1, 0.4), (20.0, 30.0)), line_of("b", (0.2, 0.5), (22.0, 33.0))]
    axes = plotted(monkeypatch, plot_cost, lines, tmp_path / "cost", bound=0.2)
    shown = [text.get_text() for text in texts_of(axes)]
    assert "+20%" not in shown and "λ = 0" not in shown
    assert shown.count("0") == 2


def test_points_stand_at_their_strengths_and_bars_beside_them(monkeypatch, tmp_path):
    axes = plotted(monkeypatch, plot_effect, BROKEN, tmp_path / "effect")
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1, 2, 3]] * 2
    bars = [segment[0][0] for bar in axes.collections for segment in bar.get_segments()]
    assert len(set(bars)) == len(bars) == 8
    assert any("intervals beside their points" in text.get_text() for text in texts_of(axes))


def test_an_interval_below_zero_stays_in_the_frame(monkeypatch, tmp_path):
    axes = plotted(monkeypatch, plot_effect, BROKEN, tmp_path / "effect")
    assert axes.get_ylim()[0] < 0.1 - 1.96 * 0.1


@pytest.mark.usefixtures("undrawn")
def test_the_report_names_data_and_concept_and_calls_transports_so(tmp_path, run_command):
    values = {"concept_presence": (0.1, 0.9), "perplexity": (20.0, 30.0)}
    folder = evaluated(tmp_path / "a", values, "mean", strengths=(0.0, 1.0), lexicon=["sea", "bay"])
    assert run_command("compare", folder, "-o", tmp_path / "c") == 0
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    head = page[page.index("<h1>") : page.index("</header>")]
    assert "concept_presence of prompts, perplexity of plain; concept of 2 words: sea, bay" in head
    told = "model with 1 transport at 2 strengths from 0 to 1: concept_presence of mean transport"
    assert f"{told} rises from 0.100 to 0.900." in page
