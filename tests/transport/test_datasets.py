"""Loaders of sentences: the published layouts, draws that depend on the seed alone, bad files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from aim_plugins.transport.data.corpora import read_truthfulqa, split_folds
from aim_plugins.transport.data.datasets import load_prompts, load_sides, read_sentences


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return path


# Files of one's own.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "One \\u2028 line."}\n\n{"text": "Zwei für drei."}\n'),
        ("a.jsonl", '"One \\u2028 line."\n"Zwei für drei."\n'),
        # A line separator of Unicode inside a JSON text does not end the line.
        ("a.jsonl", '{"text": "One \u2028 line."}\r\n{"text": "Zwei für drei."}'),
        ("a.txt", "\ufeffOne \u2028 line.\n\n   \nZwei für drei.\n"),
        ("a.json", '["One \\u2028 line.", {"text": "Zwei für drei."}]'),
    ],
)
def test_every_format_gives_the_same_sentences(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8"))
    assert read_sentences(path) == ["One \u2028 line.", "Zwei für drei."]


def test_a_sentence_may_have_another_field(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"body": "a", "text": "b"}])
    assert read_sentences(path, field="body") == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b', "a.jsonl line 3 is no JSON"),
        ("a.jsonl", b'{"txet": "a"}\n', "line 1 has no field 'text'; did you mean 'txet'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: a sentence is a text, not 3"),
        ("a.jsonl", b'{"text": "  "}\n', "line 1: the sentence is empty"),
        ("a.txt", b"good\n\xff\xfe\n", "a.txt line 2 is not UTF-8"),
        ("a.txt", b"\n \n", "holds no sentence"),
        ("a.json", b'{"text": "a"}', "holds a JSON dict: give a list"),
        ("a.json", b'["a",\n"b"', "a.json line 2 is no JSON"),
        ("a.json", b'["a", 1]', "element 2: a sentence is a text"),
        ("a.csv", b"text\na\n", "the suffix is '.csv'"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line_that_names_the_place(
    tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_sentences(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_sentences(tmp_path / "nowhere.txt")


# Draws.


@pytest.fixture
def own_files(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(50)])
    write_lines(tmp_path / "b.jsonl", [{"text": f"b{i}"} for i in range(30)])
    return tmp_path


def test_without_a_number_all_sentences_are_taken_in_their_order(own_files):
    sides = load_sides("files", own_files, source="a.jsonl", target="b.jsonl")
    assert sides.source == tuple(f"a{i}" for i in range(50))
    assert sides.target == tuple(f"b{i}" for i in range(30))


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_file(own_files):
    options = {"source": "a.jsonl", "target": "b.jsonl", "n_source": 10}
    drawn = load_sides("files", own_files, **options, seed=1).source
    assert len(set(drawn)) == 10
    assert load_sides("files", own_files, **options, seed=2).source != drawn
    write_lines(own_files / "a.jsonl", [{"text": f"a{i}"} for i in reversed(range(50))])
    assert load_sides("files", own_files, **options, seed=1).source == drawn


def test_a_draw_is_the_same_under_every_hash_seed(own_files):
    program = (
        "import sys; from aim_plugins.transport.data.datasets import load_sides; "
        "print(load_sides('files', sys.argv[1], source='a.jsonl', target='b.jsonl', "
        "n_source=7, n_target=9, seed=3))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program, str(own_files)],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("n", [0, 51, -1, True, 2.0])
def test_a_number_that_cannot_be_drawn_is_refused_with_what_there_is(own_files, n):
    with pytest.raises(ValueError, match="there are 50 texts; give 1 to 50"):
        load_sides("files", own_files, source="a.jsonl", target="b.jsonl", n_source=n)


def test_unknown_names_and_options_are_refused_with_the_nearest(own_files):
    with pytest.raises(ValueError, match="'jigsaw'"):
        load_sides("jigsow", own_files)
    with pytest.raises(ValueError, match="did you mean 'n_source'"):
        load_sides("files", own_files, source="a.jsonl", target="b.jsonl", n_sorce=3)
    with pytest.raises(ValueError, match="files needs target"):
        load_sides("files", own_files, source="a.jsonl")


# RealToxicityPrompts.


def rtp_record(prompt, toxicity, challenging=False, continuation=" and so on."):
    return {
        "filename": "0766186-bc7f2a64cb271f5f56cf6f25570cd9ed.txt",
        "begin": 340,
        "end": 564,
        "challenging": challenging,
        "prompt": {"text": prompt, "toxicity": toxicity, "threat": 0.1},
        "continuation": {"text": continuation, "toxicity": 1 - (toxicity or 0), "threat": 0.1},
    }


@pytest.fixture
def rtp(tmp_path):
    records = [
        rtp_record("The committee met", 0.1),
        rtp_record("Those idiots said", 0.5, challenging=True),
        rtp_record("A rude remark about", 0.9),
        # Some records of the published file have no score.
        rtp_record("An unscored line", None),
    ]
    write_lines(tmp_path / "prompts.jsonl", records)
    return tmp_path


def test_rtp_sides_are_divided_by_the_prompts_toxicity(rtp):
    sides = load_sides("rtp", rtp)
    assert sides.source == ("Those idiots said", "A rude remark about")
    assert sides.target == ("The committee met",)
    assert load_sides("rtp", rtp, threshold=0.6).source == ("A rude remark about",)


def test_rtp_continuations_are_divided_by_their_own_toxicity(rtp):
    # 0.9 and 1.0 against 0.5 and 0.1; the prompts' own scores would divide them otherwise.
    sides = load_sides("rtp", rtp, part="continuation", threshold=0.7)
    assert (len(sides.source), len(sides.target)) == (2, 2)
    assert load_sides("rtp", rtp, part="both").target == ("The committee met and so on.",)


def test_rtp_prompts_are_all_of_them_or_the_toxic_ones(rtp):
    assert len(load_prompts({"name": "rtp", "root": str(rtp)})) == 4
    assert load_prompts({"name": "rtp", "root": str(rtp), "threshold": 0.9}) == (
        "A rude remark about",
    )
    assert load_prompts({"name": "rtp", "root": str(rtp), "challenging": True}) == (
        "Those idiots said",
    )
    assert len(set(load_prompts({"name": "rtp", "root": rtp / "prompts.jsonl", "n": 3}))) == 3


def test_prompts_may_be_a_file_of_sentences(own_files):
    path = own_files / "b.jsonl"
    assert load_prompts(path) == load_prompts({"root": path}) == tuple(f"b{i}" for i in range(30))
    with pytest.raises(ValueError, match="rtp needs root"):
        load_prompts({"name": "rtp"})


def test_a_prompt_may_be_repeated():
    prompts = load_prompts({"name": "repeat", "text": "Once upon a time", "n": 500})
    assert prompts == ("Once upon a time",) * 500
    with pytest.raises(ValueError, match="n=0"):
        load_prompts({"name": "repeat", "text": "Once upon a time", "n": 0})


def test_malformed_rtp_is_refused(rtp):
    path = rtp / "prompts.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match="prompts.jsonl line 4 is no JSON"):
        load_sides("rtp", rtp)
    write_lines(path, [rtp_record("a", 0.1), {"prompt": {"text": "b"}}])
    with pytest.raises(ValueError, match="line 2 is no record of RealToxicityPrompts"):
        load_sides("rtp", rtp)
    write_lines(path, [rtp_record("a", 0.1)])
    with pytest.raises(ValueError, match="source .toxicity >= 0.5. holds no text"):
        load_sides("rtp", rtp)
    with pytest.raises(FileNotFoundError, match="holds no prompts.jsonl"):
        load_sides("rtp", rtp / "nowhere")
    with pytest.raises(ValueError, match="part='whole'"):
        load_sides("rtp", rtp, part="whole")


# Jigsaw.

TOXIC_COMMENTS = [
    ["id", "comment_text", "toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"],
    ["0000997932d777bf", 'Thanks.\nI "moved" it, see the talk page.', 0, 0, 0, 0, 0, 0],
    ["0002bcb3da6cb337", "You fool, stop this", 1, 0, 0, 0, 1, 0],
    ["0005c987bdfc9d4b", "A bad word", 0, 0, 1, 0, 0, 0],
    ["0007e25b2121310b", "Go away", 1, 0, 0, 1, 0, 0],
    # Rows of the test set without annotations.
    ["0009801bd85e5806", "Nobody judged this", -1, -1, -1, -1, -1, -1],
]


def test_jigsaw_sides_are_a_label_against_comments_without_any(tmp_path):
    write_csv(tmp_path / "train.csv", TOXIC_COMMENTS)
    sides = load_sides("jigsaw", tmp_path)
    assert sides.source == ("You fool, stop this", "Go away")
    assert sides.target == ('Thanks.\nI "moved" it, see the talk page.',)
    assert load_sides("jigsaw", tmp_path, source="threat").source == ("Go away",)
    assert len(load_sides("jigsaw", tmp_path, source="any").source) == 3


def test_scores_of_the_unintended_bias_challenge_count_from_one_half(tmp_path):
    write_csv(
        tmp_path / "all_data.csv",
        [
            ["id", "comment_text", "split", "toxicity", "severe_toxicity", "identity_attack"],
            [1, "kind", "train", 0.0, 0.0, 0.0],
            [2, "half", "train", 0.5, 0.0, 0.0],
            [3, "nearly", "test", 0.49, 0.0, 0.0],
            [4, "hateful", "test", 0.9, 0.1, 0.8],
        ],
    )
    sides = load_sides("jigsaw", tmp_path)
    assert sides.source == ("half", "hateful")
    assert sides.target == ("kind", "nearly")
    assert load_sides("jigsaw", tmp_path, source="identity_hate").source == ("hateful",)


def test_malformed_jigsaw_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    write_csv(path, [["id", "coment_text", "toxic"], [1, "a", 0]])
    with pytest.raises(ValueError, match="train.csv has no column 'comment_text'; did you mean"):
        load_sides("jigsaw", tmp_path)
    write_csv(path, [["id", "comment_text"], [1, "a"]])
    with pytest.raises(ValueError, match="no column of toxicity"):
        load_sides("jigsaw", tmp_path)
    write_csv(path, [["id", "comment_text", "toxic"], [1, "a", "yes"]])
    with pytest.raises(ValueError, match="train.csv line 2: toxic is 'yes', not a number"):
        load_sides("jigsaw", tmp_path)
    write_csv(path, [["id", "comment_text", "toxic"], [1, "a", 0], [2, "b"]])
    with pytest.raises(ValueError, match="train.csv line 3: the row does not have 3 cells"):
        load_sides("jigsaw", tmp_path)
    path.write_text('id,comment_text,toxic\n1,"cut in the mid', encoding="utf-8")
    with pytest.raises(ValueError, match="train.csv near line 1 is no CSV: unexpected end of data"):
        load_sides("jigsaw", tmp_path)
    path.write_bytes(b"id,comment_text,toxic\n1,\xff,0\n")
    with pytest.raises(ValueError, match="train.csv is not UTF-8"):
        load_sides("jigsaw", tmp_path)
    path.write_bytes(b"id,comment_text,t\xffxic\n")
    with pytest.raises(ValueError, match="train.csv line 1 is not UTF-8"):
        load_sides("jigsaw", tmp_path)
    write_csv(path, [["id", "comment_text", "toxic"], [1, "a", 0]])
    with pytest.raises(ValueError, match="source='toxic' holds no text"):
        load_sides("jigsaw", tmp_path)
    with pytest.raises(
        ValueError, match="label 'threat' .*; choose one of 'toxic', 'any', 'non-toxic'"
    ):
        load_sides("jigsaw", tmp_path, source="threat")


# OneSec.


@pytest.fixture
def onesec(tmp_path):
    folder = tmp_path / "OneSecConcepts-100_1.5.0"
    (folder / "sense").mkdir(parents=True)
    concepts = ["football-1_04_00__", "cloud-1_17_00__", "bank-1_14_00__", "bank-1_17_01__"]
    rows = [["group", "concept"], *[["sense", concept] for concept in concepts]]
    write_csv(folder / "concept_list.csv", rows)
    for concept in concepts:
        sentences = {
            "positive": [f"{concept} yes {i}" for i in range(3)],
            "negative": [f"{concept} no {i}" for i in range(4)],
        }
        value = {"concept": concept, "group": "sense", "sentences": sentences}
        (folder / "sense" / f"{concept}.json").write_text(json.dumps(value), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("concept", ["football-1_04_00__", "football"])
@pytest.mark.parametrize("below", ["", "OneSecConcepts-100_1.5.0"])
def test_onesec_leads_from_negative_to_positive_sentences(onesec, below, concept):
    sides = load_sides("onesec", onesec / below, concept=concept)
    assert sides.source == tuple(f"football-1_04_00__ no {i}" for i in range(4))
    assert sides.target == tuple(f"football-1_04_00__ yes {i}" for i in range(3))


def test_onesec_may_start_from_the_sentences_of_all_other_concepts(onesec):
    sides = load_sides("onesec", onesec, concept="cloud", against="others")
    assert len(sides.source) == 9
    assert all(" yes " in sentence for sentence in sides.source)
    assert not any("cloud" in sentence for sentence in sides.source)


def test_malformed_onesec_is_refused(onesec):
    folder = onesec / "OneSecConcepts-100_1.5.0"
    with pytest.raises(ValueError, match="concept='footbal' is not in .*did you mean 'football'"):
        load_sides("onesec", onesec, concept="footbal")
    with pytest.raises(ValueError, match="'bank' has 2 senses: bank-1_14_00__, bank-1_17_01__"):
        load_sides("onesec", onesec, concept="bank")
    path = folder / "sense" / "cloud-1_17_00__.json"
    path.write_text('{"sentences": {"positive": ["a"], "nega', encoding="utf-8")
    with pytest.raises(ValueError, match="cloud-1_17_00__.json line 1 is no JSON"):
        load_sides("onesec", onesec, concept="cloud")
    path.write_text('{"sentences": {"positive": ["a"]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="has no sentences.negative"):
        load_sides("onesec", onesec, concept="cloud")
    path.write_text('{"sentences": {"positive": [], "negative": ["a"]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="sentences with 'cloud' holds no text"):
        load_sides("onesec", onesec, concept="cloud")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cloud-1_17_00__.json"):
        load_sides("onesec", onesec, concept="cloud")


def test_a_concept_list_does_not_lead_out_of_its_folder(onesec):
    folder = onesec / "OneSecConcepts-100_1.5.0"
    write_csv(folder / "concept_list.csv", [["group", "concept"], ["..", "football-1_04_00__"]])
    with pytest.raises(ValueError, match="'..' is no name of a file"):
        load_sides("onesec", onesec, concept="football")


# TruthfulQA.

TRUTHFULQA_COLUMNS = [
    "Type",
    "Category",
    "Question",
    "Best Answer",
    "Correct Answers",
    "Incorrect Answers",
    "Source",
]


@pytest.fixture
def truthfulqa(tmp_path):
    rows = [
        ["Adversarial", "Made", f"Question {i}?", f"right {i}", f"right {i}; true {i}; ",
         f"wrong {i}; false {i};untrue {i}", "https://example.org"]
        for i in range(9)
    ]  # fmt: skip
    write_csv(tmp_path / "TruthfulQA.csv", [TRUTHFULQA_COLUMNS, *rows])
    return tmp_path


def asked(sentences):
    return {sentence.partition("\n")[0].removeprefix("Q: ") for sentence in sentences}


def test_truthfulqa_leads_from_incorrect_to_correct_answers_of_one_fold(truthfulqa):
    first, second = (load_sides("truthfulqa", truthfulqa, fold=fold) for fold in (0, 1))
    assert (len(first.held_out), len(second.held_out)) == (4, 5)
    for sides in (first, second):
        questions = asked(sides.source)
        assert asked(sides.target) == questions
        assert not questions & set(sides.held_out)
        assert len(questions | set(sides.held_out)) == 9
        assert len(sides.source) == 3 * len(questions)
        assert len(sides.target) == 2 * len(questions)
    assert set(first.held_out) == asked(second.source)


def test_truthfulqa_answers_are_split_at_semicolons_and_follow_their_question(truthfulqa):
    sides = load_sides("truthfulqa", truthfulqa)
    number = sides.source[0].partition("?")[0].removeprefix("Q: Question ")
    assert [s for s in sides.source if f"Question {number}?" in s] == [
        f"Q: Question {number}?\n\nA: {word} {number}." for word in ("wrong", "false", "untrue")
    ]
    assert [s for s in sides.target if f"Question {number}?" in s] == [
        f"Q: Question {number}?\n\nA: {word} {number}." for word in ("right", "true")
    ]


def test_truthfulqa_may_take_the_best_answer_alone_and_another_template(truthfulqa):
    options = {"answers": "best", "template": "{question} {answer} {x}"}
    sides = load_sides("truthfulqa", truthfulqa, **options)
    assert all("right" in sentence for sentence in sides.target)
    assert all(sentence.endswith(" {x}") for sentence in sides.target)


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_questions(truthfulqa):
    questions = read_truthfulqa(truthfulqa)
    folds = [{q.question for q in fold} for fold in split_folds(questions, 2, 5)]
    again = [{q.question for q in fold} for fold in split_folds(questions[::-1], 2, 5)]
    other = [{q.question for q in fold} for fold in split_folds(questions, 2, 6)]
    assert folds == again
    assert folds != other


def test_malformed_truthfulqa_is_refused(truthfulqa):
    for options, message in [
        ({"fold": 2}, "fold=2: give 0 to 1"),
        ({"n_folds": 10}, "n_folds=10: give 2 to 9"),
        ({"answers": "mc1"}, "answers='mc1'"),
        ({"template": "Q: {question}"}, "needs {question} and {answer}"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_sides("truthfulqa", truthfulqa, **options)
    path = truthfulqa / "TruthfulQA.csv"
    write_csv(path, [TRUTHFULQA_COLUMNS[:5], ["", "", "Q?", "a", "a"]])
    with pytest.raises(ValueError, match="has no column 'Incorrect Answers'"):
        load_sides("truthfulqa", truthfulqa)
    write_csv(path, [TRUTHFULQA_COLUMNS, ["", "", "Q?", "a", "a", " ; ", ""]])
    with pytest.raises(ValueError, match="TruthfulQA.csv line 2: Incorrect Answers is empty"):
        load_sides("truthfulqa", truthfulqa)
