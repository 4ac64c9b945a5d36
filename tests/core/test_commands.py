"""What commands say of words that are none of theirs."""

from __future__ import annotations

import pytest

from aim_plugins.core.commands import CommandParser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-ablatons", "3"], "--num-ablatons 3; did you mean --num-ablations?"),
        (["--num-ablatons=3"], "--num-ablatons=3; did you mean --num-ablations?"),
        (["--zzz"], "unrecognized arguments: --zzz\n"),
        (["extra"], "unrecognized arguments: extra\n"),
        (["--num-ablations", "x"], "invalid int value: 'x'\n"),
    ],
)
def test_a_mistyped_option_is_told_what_it_is_like(words, said, capsys) -> None:
    parser = CommandParser(prog="measure")
    parser.add_argument("--num-ablations", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
