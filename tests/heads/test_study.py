"""`aim-plugins attribute` from its options to its files."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.heads.ablated import AblatedModel
from aim_plugins.modulation.edits import ComponentEdit
from aim_plugins.task_documents import load_documents

pytest.importorskip("lm_eval")


def rows_of(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def margin(scores: list[float], right: int) -> float:
    return scores[right] - max(scores[:right] + scores[right + 1 :])


def mean_margin(answers) -> float:
    """Of log-likelihoods as results.json holds them."""
    margins = list(map(margin, answers["scores"], answers["right"]))
    return sum(margins) / len(margins)


def asked_by_harness(task_folder, task, **arguments) -> dict[int, list[float]]:
    """Log-likelihoods of the choices of each document, by the harness."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    import aim_plugins.harnesses.lm_eval.register  # noqa: F401

    found = simple_evaluate(
        "aim_hf",
        model_args={key: str(value) for key, value in arguments.items()},
        tasks=[task],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    return {
        sample["doc_id"]: [float(one[0]) for one in sample["filtered_resps"]]
        for sample in found["samples"][task]
    }


def test_a_study_writes_a_report_attributions_and_an_edit(attribute, tiny) -> None:
    status, folder = attribute("--also", "tiny_questions")
    assert status == 0
    names = {path.name for path in folder.iterdir()}
    assert {"results.csv", "results.json", "dataset", "attributions", "edit", "curves"} < names
    page = (folder / "report.html").read_text()
    for title in ("Heads", "Documents", "Prediction", "The edit"):
        assert f">{title}</h2>" in page
    drawn = {path.name for path in (folder / "curves").iterdir()}
    assert {f"{one}.png" for one in ("components", "prediction", "sizes", "documents")} < drawn
    rows, results = rows_of(folder), results_of(folder)
    assert len(rows) == 12 and set(results["outcomes"]) == {"tiny_capitals", "tiny_questions"}
    # The mean over documents, and the rank by it, are those of the attributions.
    means = Attributions.load(folder / "attributions").weights.double().mean(0)
    assert [float(row["mean"]) for row in rows] == pytest.approx(means.tolist(), abs=1e-6)
    ranked = sorted(rows, key=lambda row: int(row["rank"]))
    assert [int(row["number"]) for row in ranked] == means.argsort(descending=True).tolist()
    edit = ComponentEdit.load(folder / "edit")
    chosen = [row["component"] for row in ranked if row["in_edit"] == "1"]
    assert set(edit.components.names()) == set(chosen) == set(results["edit"])
    edit.check_model(tiny.model)
    # Of each head that it ablates the page shows the documents it matters for.
    shown = [row for row in rows if f"{row['component']}: most and least" in page]
    assert {row["component"] for row in shown} == set(chosen) and len(chosen) == 2
    # It names the documents that made it and those that did not: each document once.
    known = edit.metadata
    parts = [known.targets, known.settings["validation"], known.settings["held_out"]]
    named = sorted(one for part in parts for one in part)
    assert named == [f"tiny_capitals#{number}" for number in range(len(named))]
    held_out = results["outcomes"]["tiny_capitals"]["whole"]["right"]
    assert len(parts[2]) == len(held_out)


@pytest.mark.usefixtures("undrawn")
def test_the_stock_harness_gives_the_answers_that_the_study_reports(
    attribute, tiny, task_folder
) -> None:
    _, folder = attribute("--also", "tiny_questions")
    own = results_of(folder)["outcomes"]["tiny_questions"]
    for strength, name in ((0, "whole"), (1, "edited")):
        theirs = asked_by_harness(
            task_folder,
            "tiny_questions",
            pretrained=tiny.folder,
            edit=folder / "edit",
            edit_strength=strength,
            dtype="float32",
        )
        for number, scores in enumerate(own[name]["scores"]):
            assert theirs[number] == pytest.approx(scores, abs=1e-4)


@pytest.fixture(scope="module")
def planted(tiny, tmp_path_factory):
    """Folders of a model of whose heads one alone does anything, and of it without that one."""
    folder = tmp_path_factory.mktemp("models")
    model = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype="float32")
    for name, layers in (("planted", (1,)), ("without", ())):
        for layer, block in enumerate(model.model.layers):
            kept = torch.zeros(4, dtype=torch.bool)
            kept[2] = layer in layers
            block.self_attn.o_proj.weight.data *= kept.repeat_interleave(12)
        model.save_pretrained(folder / name)
        tiny.tokenizer.save_pretrained(folder / name)
    return folder / "planted", folder / "without"


def check_planted(folder, true: dict[int, float]) -> None:
    """Holds attributions against the true effects of the head, by a document's number."""
    found = {row["component"]: float(row["mean"]) for row in rows_of(folder)}
    planted = found.pop("model.layers.1.self_attn[2]")
    assert max(map(abs, found.values())) < 1e-3 * abs(planted)
    learned = Attributions.load(folder / "attributions")
    expected = [true[int(one.partition("#")[2])] for one in learned.examples]
    assert learned.weights[:, 6].tolist() == pytest.approx(expected, abs=1e-4)
    assert planted == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    results = results_of(folder)
    assert all(one > 0.999 for one in results["correlations"]["attributions"]["0.2"])


@pytest.mark.usefixtures("undrawn")
def test_a_head_that_alone_does_anything_is_found_with_its_true_effect(
    attribute, planted, task_folder
) -> None:
    _, folder = attribute(model=planted[0])
    before, after = (
        asked_by_harness(task_folder, "tiny_capitals", pretrained=model, dtype="float32")
        for model in planted
    )
    true = {
        number: margin(scores, number % 4) - margin(after[number], number % 4)
        for number, scores in before.items()
    }
    check_planted(folder, true)


@pytest.mark.usefixtures("undrawn")
def test_mean_token_margins_are_attributed_while_edits_are_judged_by_answers(
    attribute, planted, token_margin, tiny, task_folder
) -> None:
    status, folder = attribute(
        model=planted[0], output_fn="mean_token_margin", baselines="leave_one_out"
    )
    assert status == 0
    documents = load_documents(["tiny_capitals"], str(task_folder))["tiny_capitals"]
    before, after = (
        [token_margin(model, tiny.tokenizer, *one.options[one.place]) for one in documents]
        for model in (AutoModelForCausalLM.from_pretrained(one) for one in planted)
    )
    true = [one - other for one, other in zip(before, after, strict=True)]
    check_planted(folder, dict(enumerate(true)))
    # Documents are shown with the output that is attributed, and with its change in truth.
    results, page = results_of(folder), (folder / "report.html").read_text()
    targets = ComponentEdit.load(folder / "edit").metadata.targets
    learned = [int(one.partition("#")[2]) for one in targets]
    (alone,) = (one for one in results["alone"] if one["number"] == 6)
    assert alone["learning"] == pytest.approx([after[one] for one in learned], abs=1e-4)
    assert re.search(r'<th scope="col"[^>]*>mean token margin[^<]*</th>', page)
    assert all(f">{before[one]:+.2f}<" in page for one in learned)
    # Held-out documents and the choice of a size show the choice margin.
    own = results["outcomes"]["tiny_capitals"]
    change = mean_margin(own["edited"]) - mean_margin(own["whole"])
    assert f"the margin of the right choice changes by {change:+.2f} nats" in page
    path = results["validation"]
    moved = [mean_margin(path["whole"]) - mean_margin(one) for one in path["steps"]]
    assert len(results["edit"]) == path["sizes"][moved.index(max(moved))]


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_study_goes_on_and_ends_as_one_in_a_run(attribute, monkeypatch) -> None:
    whole = AblatedModel._compute
    asked: list[tuple[int, ...]] = []

    def stop_at_two(self, questions, ablated):
        asked.append(tuple(ablated))
        if len(ablated) == 2 and len(asked) == 3:
            raise KeyboardInterrupt
        return whole(self, questions, ablated)

    monkeypatch.setattr(AblatedModel, "_compute", stop_at_two)
    status, folder = attribute()
    assert status == 130 and not (folder / "report.html").exists()
    assert attribute()[0] == 0
    assert asked[3] == asked[2]  # those before it were kept
    finished = len(asked)
    assert attribute()[0] == 0 and len(asked) == finished
    _, other = attribute(output="other")
    for name in ("results.csv", "results.json", "edit/edit.safetensors"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_parts_that_are_built_apart_end_as_one_run(attribute) -> None:
    for part in ("2/2", "1/2"):
        status, folder = attribute("--shard", part)
        assert status == 0 and not (folder / "report.html").exists()
    status, folder = attribute()
    assert status == 0
    _, other = attribute(output="other")
    for name in ("dataset/component_dataset.safetensors", "results.csv", "results.json"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_an_edit_may_raise_the_margin_of_chosen_components_of_other_kinds(attribute) -> None:
    status, folder = attribute(
        "--direction", "raise", components="mlp_neurons:model.layers.1.*", gradient_passes=2
    )
    assert status == 0
    rows = rows_of(folder)
    assert all(row["component"].startswith("model.layers.1.mlp[") for row in rows)
    (first,) = (row for row in rows if row["rank"] == "1")
    assert float(first["mean"]) == min(float(row["mean"]) for row in rows)


@pytest.mark.usefixtures("undrawn")
def test_an_edit_against_references_is_ranked_by_the_t_statistic(attribute) -> None:
    status, folder = attribute("--references", "tiny_questions")
    assert status == 0
    learned = Attributions.load(folder / "attributions")
    own, others = (
        torch.stack(
            [
                row
                for row, name in zip(learned.weights, learned.examples, strict=True)
                if task in name
            ]
        )
        for task in ("tiny_capitals#", "tiny_questions#")
    )
    # Of parts of one size Welch's statistic, but for n in the place of n - 1 in the variances.
    assert len(own) == len(others) == 3
    expected = stats.ttest_ind(own.double(), others.double(), equal_var=False).statistic
    ranked = sorted(rows_of(folder), key=lambda row: int(row["rank"]))
    assert [int(row["number"]) for row in ranked] == (-expected).argsort(kind="stable").tolist()
    results = results_of(folder)
    assert set(results["outcomes"]) == {"tiny_capitals", "tiny_questions"}
    # The size is the one whose own change is furthest above that of the references, as the page
    # shows of each.
    path, page = results["validation"], (folder / "report.html").read_text()
    whole, *steps = (mean_margin(one) for one in (path["whole"], *path["steps"]))
    before, *after = (mean_margin(one) for one in path["references"])
    moved = [whole - one - abs(other - before) for one, other in zip(steps, after, strict=True)]
    for one, other in zip(moved, after, strict=True):
        assert f">{other - before:+.2f}" in page and f">{one:+.2f}<" in page
    assert len(results["edit"]) == path["sizes"][moved.index(max(moved))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "tiny_writing"), "tiny_writing has documents without choices"),
        (("--tasks", "tiny_capitals,tiny_questions"), "name one task; .*--also"),
        (("--also", "tiny_capitals"), "also='tiny_capitals': 'tiny_capitals' is named twice"),
        (
            ("--also", "tiny_questions", "--references", "tiny_questions"),
            "references='tiny_questions', also='tiny_questions': 'tiny_questions' is named twice",
        ),
        (("--components", "attention_head"), "did you mean 'attention_heads'"),
        (("--components", "attention_heads:layer.9"), "layer.9' matches none of the 12"),
        (("--alpha", "1"), "alpha=1.0: give a share above 0 and below 1"),
        (("--shard", "3/2"), "shard='3/2': give a part such as 1/4"),
        (("--edit-sizes", "13"), "edit_sizes=13: there are 12 heads to ablate"),
        (("--baselines", "leave_one"), "baselines holds 'leave_one': did you mean 'leave_one_out'"),
        (("--eval-masks", "2"), "eval_masks=2: give 3 or more"),
        (("--split", "0.5,0.5"), "split=0.5,0.5: give three shares that add up to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(attribute, capsys, words, message) -> None:
    status, folder = attribute(*words)
    assert status == 2 and not folder.exists()
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "rror" in one][-1:]
    assert re.search(message, line)
