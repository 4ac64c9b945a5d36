"""`aim-plugins transport condition`: what it writes, prints and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from aim_plugins import cli
from aim_plugins.steering.settings.conditions import ConditionSettings
from aim_plugins.transport.conditions.artifact import LearnedCondition
from tests.engines.test_conditions import similarity_by_hand

PLACES = ["Paris", "Berlin", "France", "Germany", "capital", "Question", "Answer", "the"]
SOURCE = [f"{one} is the {other}" for one in PLACES[:4] for other in PLACES[4:7]]
TARGET = [f"of {other} : {one} . {one}" for one in PLACES[:4] for other in PLACES[4:7]]


@pytest.fixture
def learn(tiny, tmp_path):
    """Runs the command on prompts of two sides; returns its status and the folder."""

    def run(*words, source=SOURCE, target=TARGET):
        files = []
        for name, texts in (("source", source), ("target", target)):
            (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n")
            files += [f"--{name}", str(tmp_path / f"{name}.txt")]
        folder = tmp_path / "condition"
        command = ["transport", "condition", "--pretrained", str(tiny.folder), *files]
        return cli.main([*command, "--device", "cpu", "-o", str(folder), *words]), folder

    return run


def similarities(tiny, learned, texts):
    """By transformers' own hidden states at the chosen layer."""
    layer = int(learned.condition.site.rpartition(".")[2])
    found = []
    for text in texts:
        with torch.no_grad():
            output = tiny.model.model(
                torch.tensor([tiny.tokenizer(text).input_ids]), output_hidden_states=True
            )
        # The last of them stands behind the final norm.
        assert layer + 1 < len(output.hidden_states) - 1
        states = output.hidden_states[layer + 1][0]
        state = states.mean(0) if learned.condition.summary == "mean" else states[-1]
        found.append(similarity_by_hand(state.double().numpy(), learned.condition.direction))
    return np.array(found)


@pytest.mark.parametrize("summary", ["mean", "last"])
def test_what_is_held_out_is_told_as_it_is(learn, tiny, capsys, summary):
    words = ("--summary", summary, "--paired", "--layers", r"model\.layers\.[01]")
    status, folder = learn(*words)
    assert status == 0
    learned = LearnedCondition.load(folder)
    known = learned.metadata
    assert (known.n_source, known.n_target, known.summary) == (12, 12, summary)
    assert known.method == "pca_pairwise"
    held_out = SOURCE[3::4] + TARGET[3::4]
    held = [learned.condition.holds(one) for one in similarities(tiny, learned, held_out)]
    wanted = np.arange(6) >= 3
    assert known.held_out["f1"] == pytest.approx(f1_score(wanted, held))
    assert known.held_out["true_positive_rate"] == pytest.approx(np.mean(held[3:]))
    assert known.held_out["false_positive_rate"] == pytest.approx(np.mean(held[:3]))
    printed = capsys.readouterr().out
    assert f"holds where the {learned.condition}" in printed and "3 + 3 prompts held" in printed
    assert str(folder) in printed
    assert (folder / "similarities.png").read_bytes().startswith(b"\x89PNG")


def test_the_threshold_is_the_best_on_the_prompts_that_choose_it(learn, tiny):
    _, folder = learn("--layers", r"model\.layers\.1")
    learned = LearnedCondition.load(folder)
    similar = similarities(tiny, learned, SOURCE[2::4] + TARGET[2::4])
    wanted = np.arange(6) >= 3
    values = np.sort(similar)
    best = max(
        f1_score(wanted, (similar > threshold) == above)
        for threshold in (values[1:] + values[:-1]) / 2
        for above in (True, False)
    )
    held = [learned.condition.holds(one) for one in similar]
    assert f1_score(wanted, held) == pytest.approx(best)


def test_prompts_have_no_partners_unless_that_is_said(learn, capsys):
    status, folder = learn("--layers", r"model\.layers\.1")
    assert status == 0 and "prompts by PCA of all pairs in" in capsys.readouterr().out
    assert LearnedCondition.load(folder).metadata.method == "pca_all_pairs"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"source": "a", "target": "b", "limit": 10}, "--limit draws each side by itself"),
        ({"data": {"name": "files", "n_source": 9}}, "n_source in data draws each side by itself"),
        ({"data": {"name": "jigsaw"}}, "data of name='jigsaw' has none"),
    ],
)
def test_sides_that_are_drawn_have_no_partners(tmp_path, given, problem):
    with pytest.raises(ValueError, match=problem):
        ConditionSettings(pretrained="m", output=tmp_path / "c", paired=True, **given)


def test_the_seed_is_that_of_the_draw(tiny, tmp_path):
    for name, texts in (("a", SOURCE), ("b", TARGET)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n")
    config = tmp_path / "config.py"
    config.write_text(
        f"data = dict(name='files', root={str(tmp_path)!r}, source='a.txt', target='b.txt', seed=7,"
        " n_source=10)\n"
    )
    folder = tmp_path / "condition"
    command = ["transport", "condition", "--pretrained", str(tiny.folder), "--device", "cpu"]
    assert cli.main([*command, "--config", str(config), "-o", str(folder)]) == 0
    metadata = LearnedCondition.load(folder).metadata
    assert (metadata.seed, metadata.n_source, metadata.method) == (7, 10, "pca_all_pairs")


def test_prompts_may_go_through_the_chat_template(learn, tiny, tmp_path, capsys):
    assert learn("--chat")[0] == 2
    assert "--chat: the model's tokenizer has no chat template" in capsys.readouterr().err
    chat = tmp_path / "chat"
    tiny.model.save_pretrained(chat)
    tiny.tokenizer.save_pretrained(chat)
    path = chat / "tokenizer_config.json"
    template = "{% for m in messages %}<s>{{ m['content'] }} Answer :{% endfor %}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    room = tiny.model.config.max_position_embeddings
    full = " ".join(["the"] * room)  # and the template beside it
    assert len(tiny.tokenizer(full).input_ids) == room
    assert learn("--chat", "--pretrained", str(chat), source=[*SOURCE, full])[0] == 2
    assert f"tokens, and the model takes {room}: shorten it" in capsys.readouterr().err
    status, folder = learn("--chat", "--pretrained", str(chat), "--layers", r"model\.layers\.1")
    assert status == 0
    learned = LearnedCondition.load(folder)
    assert learned.metadata.chat is True
    told = [f"<s>{text} Answer :" for text in SOURCE[3::4] + TARGET[3::4]]
    rows = [tiny.tokenizer(text, add_special_tokens=False).input_ids for text in told]
    with torch.no_grad():
        states = [
            tiny.model.model(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0]
            for row in rows
        ]
    similar = [
        similarity_by_hand(one.mean(0).double().numpy(), learned.condition.direction)
        for one in states
    ]
    held = [learned.condition.holds(one) for one in similar]
    assert learned.metadata.held_out["f1"] == pytest.approx(f1_score(np.arange(6) >= 3, held))


def test_too_few_prompts_are_refused_in_a_line(learn, capsys):
    status, folder = learn(source=SOURCE[:7], target=TARGET[:7])
    assert (status, folder.exists()) == (2, False)
    assert (
        "source has 7 prompts that are neither the same nor tied by partners: give 8"
        in capsys.readouterr().err
    )
