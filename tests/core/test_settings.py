"""One dataclass as config, options with their help, and checked object."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from aim_plugins.core.settings import (
    Count,
    Grid,
    Names,
    Settings,
    SignedGrid,
    add_config,
    add_options,
    bound,
    make_settings,
    option,
    read_settings,
)


@dataclass(frozen=True, kw_only=True)
class Oven(Settings):
    """The oven.

    Attributes:
        degrees: How hot it is, in degrees
            Celsius; 100 % of recipes say so.
        fan: Whether air moves.
    """

    degrees: float = 180.0
    fan: bool | None = None


@dataclass(frozen=True)
class Layer(Settings):
    """A layer.

    Attributes:
        taste: What it tastes of.
        height: In millimetres.
    """

    taste: str
    height: Annotated[int, bound("an even number", lambda value: value % 2 == 0)] = 20


@dataclass(frozen=True)
class Cake(Oven):
    """A cake: what it is made of.

    Attributes:
        eggs: How many.
        flour: Of wheat or rye.
        toppings: Put on at the end.
        guests: Who may have some.
        layers: From the bottom upwards.
        pans: Where it is baked.
        notes: Whatever else.
        times: Minutes to try.
        tilt: Degrees to try.
        recipe: Where it comes from.
    """

    eggs: Count
    flour: Literal["wheat", "rye"] = "wheat"
    toppings: Sequence[str | int] = option((), metavar="TOPPING")
    guests: Names = ()
    layers: Sequence[Layer] = ()
    pans: Sequence[Path] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    times: Grid = "0:60:30"
    tilt: SignedGrid = 0.0
    recipe: Path | None = option(None, short="-r")

    def check(self) -> None:
        if self.fan and self.degrees > 200:
            raise ValueError("fan=True burns cakes above 200 degrees: leave it")


def parse(*words: str, kind: type[Settings] = Cake, config: str | None = "--config"):
    parser = argparse.ArgumentParser(prog="bake")
    if config:
        add_config(parser, config)
    add_options(parser, kind, required=config is None)
    return parser.parse_args(words)


def read(*words: str) -> Cake:
    options = parse(*words)
    return read_settings(Cake, options.config, options.cfg_options, vars(options))


@pytest.fixture
def config(tmp_path: Path):
    pytest.importorskip("mmengine.config")

    def write(**content: object) -> str:
        path = tmp_path / "cake.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_defaults_file_overrides_and_command_line_follow_on_each_other(config):
    path = config(eggs=1, degrees=190, flour="rye", guests=["Ann"])
    assert read("--eggs", "1") == Cake(1)
    found = read("--config", path, "--eggs", "3", "--cfg-options", "eggs=2", "degrees=170")
    assert found == Cake(3, flour="rye", degrees=170.0, guests=("Ann",))
    # What is given on the command line wins where it says what the default says, too.
    assert read("--config", path, "--flour", "wheat", "--degrees", "180").flour == "wheat"
    assert read("--config", config(eggs=1, fan=True), "--no-fan").fan is False


def test_a_file_and_the_command_line_make_equal_settings(config):
    words = "--eggs 2 --degrees 175 --fan --flour rye --toppings 3 nut --guests Ann,Bo"
    words += " --pans a b --times 0,5 --tilt=-1:1:1 --recipe book"
    values = {"eggs": 2, "degrees": 175, "fan": True, "flour": "rye", "toppings": ["3", "nut"]}
    values |= {"guests": "Ann, Bo", "pans": ["a", "b"], "times": "0,5", "tilt": "-1:1:1"}
    made = read("--config", config(**values, recipe="book"))
    assert made == read(*words.split())
    assert (made.degrees, made.pans, made.recipe) == (175.0, (Path("a"), Path("b")), Path("book"))
    assert type(made.degrees) is float
    assert made.toppings == ("3", "nut") and made.guests == ("Ann", "Bo")


def test_one_item_is_a_list_and_none_stays_none(config):
    found = read("--config", config(eggs=1, pans="a", toppings=4, recipe=None))
    assert (found.pans, found.toppings, found.recipe) == ((Path("a"),), (4,), None)
    assert read("--eggs", "1", "--recipe", "None").recipe is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eggs": 0}, "eggs=0: give a whole number from 1 upwards"),
        ({"eggs": True}, "eggs=True: give a whole number"),
        ({"eggs": 2.0}, "eggs=2.0: give a whole number"),
        ({"eggs": "two"}, "eggs='two': give a whole number"),
        ({"eggs": None}, "eggs=None: give a whole number"),
        ({"degrees": False}, "degrees=False: give a number"),
        ({"degrees": "warm"}, "degrees='warm': give a number"),
        ({"fan": "no"}, "fan='no': give True or False or None"),
        ({"fan": 0}, "fan=0: give True or False or None"),
        ({"flour": "ray"}, "flour='ray': did you mean 'rye'?"),
        ({"flour": "corn"}, "flour='corn': choose one of 'wheat', 'rye'"),
        ({"toppings": [1, {}]}, "toppings holds {}: give a text or a whole number"),
        ({"toppings": {"a": 1}}, "toppings={'a': 1}: give a list, each a text or a whole number"),
        ({"recipe": ["a", "b"]}, "recipe=['a', 'b']: give a path or None"),
        ({"notes": "none"}, "notes='none': give a dictionary"),
        ({"times": "5:1:1"}, "times='5:1:1' stops below its start"),
        ({"times": -1}, "times=-1.0 is negative"),
        ({"tilt": "1,1"}, "tilt='1,1' holds 1 twice"),
        ({"fan": True, "degrees": 201}, "fan=True burns cakes above 200 degrees"),
        ({"layers": [{}]}, "layers holds no taste: add it"),
        ({"layers": [{"taste": "nut", "hight": 2}]}, "layers holds 'hight', .*mean 'height'"),
        ({"layers": [{"taste": "nut", "height": 3}]}, "height=3: give an even number"),
        ({"layers": ["nut"]}, "layers holds 'nut': give a dictionary"),
        ({"eegs": 2}, "the config holds 'eegs', which is no option; did you mean 'eggs'?"),
        ({"sugar": 2}, "the config holds 'sugar', which is no option; choose one of 'degrees', "),
    ],
)
def test_a_wrong_value_is_told_with_its_name_and_the_mend(config, values, message):
    with pytest.raises(ValueError) as error:
        read("--config", config(**{"eggs": 1, **values}))
    import re

    assert re.search(message if ".*" in message else re.escape(message), str(error.value))
    assert "\n" not in str(error.value)


def test_an_object_made_by_hand_is_checked_and_holds_what_its_annotations_say():
    assert Cake(1, layers=(Layer("nut"),)).layers[0].height == 20
    for values, message in (
        ({"eggs": "1"}, "eggs='1': give a whole number"),
        ({"recipe": "book"}, "recipe='book': give a path"),
        ({"guests": "Ann,Bo"}, "guests='Ann,Bo': give a list"),
        ({"fan": True, "degrees": 300}, "fan=True burns"),
        ({"layers": ({"taste": "nut"},)}, "layers"),
    ):
        with pytest.raises(ValueError, match=message):
            Cake(**{"eggs": 1, **values})
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cake(1).eggs = 2  # type: ignore[misc]


def test_blocks_of_a_file_become_settings_of_their_own(config):
    path = config(eggs=1, layers=[{"taste": "nut", "height": 4}, {"taste": "fig"}])
    assert read("--config", path).layers == (Layer("nut", 4), Layer("fig"))
    assert make_settings(Layer, {"taste": "fig"}, "layer") == Layer("fig")


def test_a_missing_setting_is_named_with_its_option(config):
    with pytest.raises(ValueError, match="eggs is missing: add --eggs, or a config"):
        read()
    with pytest.raises(ValueError, match="the config holds no eggs: add it"):
        read("--config", config(flour="rye"))
    with pytest.raises(SystemExit):
        parse(config=None)
    with pytest.raises(ValueError, match="add --config FILE"):
        read("--eggs", "1", "--cfg-options", "degrees=3")


def test_help_says_what_the_docstring_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--eggs EGGS How many.",
        "--flour {wheat,rye} Of wheat or rye. Default: wheat.",
        "--toppings TOPPING [TOPPING ...] Put on at the end.",
        "-r RECIPE, --recipe RECIPE Where it comes from.",
        "--fan, --no-fan Whether air moves.",
        "How hot it is, in degrees Celsius; 100 % of recipes say so. Default: 180.0.",
        "The oven: --degrees",
    ):
        assert words in shown, words
    assert "--notes" not in shown and "--layers" not in shown  # dictionaries stand in files


def test_an_option_said_anew_stands_once_with_its_new_help_and_default(capsys):
    @dataclass(frozen=True, kw_only=True)
    class Grill(Oven):
        """The grill.

        Attributes:
            degrees: Hotter.
        """

        degrees: float = 250.0

    parser = argparse.ArgumentParser()
    add_options(parser, Grill)
    assert parser.format_help().count("--degrees") == 2  # in the usage, and in its group
    assert "Hotter. Default: 250.0." in parser.format_help()
    assert make_settings(Grill, {}, "").degrees == 250.0


def test_sections_hold_for_their_command_and_later_ones_win(config):
    @dataclass(frozen=True)
    class Icing(Settings):
        degrees: float = 20.0
        colour: str = "white"

    sections: dict[str, type[Settings]] = {"cake": Cake, "icing": Icing}
    path = config(degrees=100, colour="red", cake={"eggs": 2, "degrees": 150}, icing={})

    def read_both(kind, *names, overrides=()):
        return read_settings(kind, path, overrides, sections=sections, read=names)

    assert read_both(Cake, "cake") == Cake(2, degrees=150.0)
    assert read_both(Icing, "icing") == Icing(100.0, "red")
    assert read_both(Icing, "cake", "icing") == Icing(150.0, "red")
    for override, message in (
        ("icing.eggs=1", "section 'icing' holds 'eggs', which is no option"),
        ("icing=2", "the config's 'icing' is 2: give a dictionary"),
        ("icng.colour=red", "the config holds 'icng', .* did you mean 'icing'"),
        ("cake.colour=red", "section 'cake' holds 'colour'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_both(Icing, "icing", overrides=[override])


def test_words_are_resolved_after_misspelt_settings_are_told(config):
    asked = []

    def resolve(value):
        asked.append(value)
        return {"demo:book": "/books/best"}.get(str(value), value)

    path = config(eggs=2, recipe="demo:book")
    assert read_settings(Cake, path, resolve=resolve).recipe == Path("/books/best")
    asked.clear()
    with pytest.raises(ValueError, match="'egs'"):
        read_settings(Cake, config(egs=2, recipe="demo:book"), resolve=resolve)
    assert asked == []


def test_settings_need_no_torch():
    code = (
        "import sys, aim_plugins.core.settings, aim_plugins.steering.commands.parser as parser\n"
        "try:\n    parser.main(['evaluate', '--help'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "assert not {'torch', 'transformers', 'mmengine'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
