"""Tasks: labels to arrays, arrays to answers and scores; none of it needs a Keras."""

import importlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_of_theseus.data import (
    NO_LABEL,
    Batches,
    Classification,
    Encoded,
    Entity,
    Example,
    MultiLabel,
    Pair,
    Regression,
    SpanExtraction,
    Tagging,
    TokenClassification,
    Tokenizer,
    Words,
    decode_answer,
    decode_entities,
    load_cluener,
    load_folder,
)
from bert_of_theseus.data.decoding import tag_spans

PIECES = [
    "a",
    "b",
    "e",
    "x",
    "ab",
    "1",
    "中",
    "国",
    "家",
    "ａ",
    "ｂ",
    "１",
    "😀",
    "\u1100",
    "\u1161",
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES, *(f"##{p}" for p in PIECES), ",", "。", "?"]
# What stands in texts: words, accents in two ways, full-width forms and space, joined and plain
# emoji, Hangul that falls into two tokens, what no token stands for, and any other character.
ALPHABET = [*"abex1,?中国家。é가", "e\u0301", "\u0301", "ａｂ", "１", "\u3000", " ", "\n", "\u2028"]
ALPHABET += ["😀", "👩\u200d👧", "☺\ufe0f", "\u200b", "\u00ad", "\ufffd", "\x1c"]
PARTS = st.one_of(st.sampled_from(ALPHABET), st.characters(exclude_categories=["Cs"]))
TYPES = ["place", "name"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB), encoding="utf-8")
    return Tokenizer(path)


@st.composite
def tagged(draw):
    """A text, and entities in it that do not overlap."""
    text = "".join(draw(st.lists(PARTS, min_size=1, max_size=25)))
    cuts = draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=8, unique=True))
    cuts.sort()
    spans = [span for span in zip(cuts, cuts[1:]) if draw(st.booleans())]
    entities = [Entity(*span, draw(st.sampled_from(TYPES))) for span in spans]
    return Example(text, [e for e in entities if text[e.start : e.end].strip()])


def trimmed(text, start, end):
    while text[start].isspace():
        start += 1
    while text[end - 1].isspace():
        end -= 1
    return start, end


def one_hot(labels, count):
    return np.eye(count)[np.maximum(labels, 0)]


LAWS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Entities, from characters to tokens and back.


@LAWS
@given(example=tagged(), limit=st.integers(3, 30))
def test_entities_come_back_whole_or_are_counted(tokenizer, example, limit):
    task = Tagging(TYPES)
    expected = [
        Entity(*trimmed(example.text, e.start, e.end), e.type) for e in sorted(example.label)
    ]
    found = {}
    for length in (limit, 1000):
        encoded = task.encode([example], tokenizer, length)
        (labels,) = encoded.labels
        assert len(labels) == len(encoded.token_ids[0]) == len(encoded.offsets[0]) <= length
        (found[length],) = task.decode([one_hot(labels, 5)], encoded)
        assert [entity for entity in expected if entity in found[length]] == found[length]
        assert encoded.dropped == len(expected) - len(found[length])
    # Of what has tokens the limit takes only what reaches the last of those that are left.
    number = len(task.encode([example], tokenizer, 1000).token_ids[0])
    assert encoded.cut.tolist() == [False]
    encoded = task.encode([example], tokenizer, limit)
    assert encoded.cut.tolist() == [number > limit]
    last = len(encoded.token_ids[0]) - 2
    end = encoded.offsets[0][last, 0] if encoded.cut[0] else len(example.text)
    start = encoded.offsets[0][last, 0]
    shared = encoded.offsets[0][:last, 1].max(initial=0) > start  # a character of two tokens
    kept = [entity for entity in found[1000] if entity.end <= end]
    assert found[limit] == kept or shared


@LAWS
@given(
    words=st.lists(
        st.tuples(
            st.sampled_from([*"abx中😀", "é", "e\u0301", "ａ", "👩\u200d👧", "\u200ba"]),
            st.lists(
                st.sampled_from([*"abx1中国。😀ａ", "e\u0301", "\u200d", "☺\ufe0f"]), max_size=4
            ),
            st.sampled_from([" ", "\u3000", "\n ", "\u2028"]),
            st.sampled_from([None, *TYPES]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_entities_between_white_space_are_never_dropped(tokenizer, words):
    text, entities = "", []
    for first, rest, space, type in words:
        word = first + "".join(rest)
        if type:
            entities.append(Entity(len(text), len(text) + len(word + space), type))
        text += word + space
    task = Tagging(TYPES)
    encoded = task.encode([Example(text, entities)], tokenizer, 1000)
    assert encoded.dropped == 0
    (found,) = task.decode([one_hot(encoded.labels[0], 5)], encoded)
    assert [text[e.start : e.end] for e in found] == [text[e[0] : e[1]].strip() for e in entities]


@LAWS
@given(example=tagged(), limit=st.integers(3, 30), seed=st.integers(0, 1000))
def test_whatever_a_model_answers(tokenizer, example, limit, seed):
    encoded = tokenizer.encode_with_offsets([example], limit)
    (offsets,), (cut,) = encoded.offsets, encoded.cut
    own = offsets[offsets[:, 0] < offsets[:, 1]]
    outputs = np.random.default_rng(seed).random((len(offsets) + 3, 5))
    found = decode_entities(outputs, offsets, Tagging(TYPES).labels, cut)
    ends = [0, *(end for entity in found for end in entity[:2])]
    assert ends == sorted(ends)
    for entity in found:
        assert entity.start in own[:, 0] and entity.end in own[:, 1]
        assert not cut or entity.end < own[-1, 1] or own[-1, 0] < own[-2, 1]
    answer = decode_answer(np.random.default_rng(seed).random((2, len(offsets))), offsets, cut, 2)
    if answer is not None:
        (first, last) = (np.flatnonzero(own[:, i] == answer[i]) for i in (0, 1))
        assert last.max() - first.min() < 2 + (own[1:, 0] < own[:-1, 1]).sum()


@LAWS
@given(example=tagged(), limit=st.integers(8, 30))
def test_answers_come_back_whole_or_are_counted(tokenizer, example, limit):
    task, text = SpanExtraction("exact_match", max_answer_length=1000), example.text
    spans = [entity[:2] for entity in example.label]
    examples = [Pair("ab?", text, span) for span in [*spans, None]]
    encoded = task.encode(examples, tokenizer, limit)
    number = len(encoded.token_ids[0])
    assert number <= limit
    answers = [np.eye(number)[np.maximum(labels, 0)] for labels in encoded.labels]
    found = task.decode(answers, encoded)
    expected = [trimmed(text, *span) for span in spans] + [None]
    for labels, one, other in zip(encoded.labels, found, expected):
        assert one == (other if labels[0] != NO_LABEL else None)
    assert encoded.dropped == sum(labels[0] == NO_LABEL for labels in encoded.labels)
    assert task.measure(answers, encoded)["exact_match"] == pytest.approx(
        1 - encoded.dropped / len(examples)
    )


def test_tags():
    task = Tagging(TYPES)
    assert task.labels == ["O", "B-place", "I-place", "B-name", "I-name"]

    def decode(*tags, cut=False):
        offsets = np.array([(0, 0), *((i, i + 1) for i in range(len(tags))), (0, 0)])
        labels = [1, *(task.labels.index(tag) for tag in tags), 1, 1]
        return [e[:] for e in decode_entities(one_hot(labels, 5), offsets, task.labels, cut)]

    assert decode("B-name", "I-name", "B-name", "O") == [(0, 2, "name"), (2, 3, "name")]
    assert decode("O", "I-name", "I-place", "O") == [(1, 2, "name"), (2, 3, "place")]
    assert decode("B-name", "O", "I-name") == [(0, 1, "name"), (2, 3, "name")]
    assert decode("B-name", "O", "I-name", cut=True) == [(0, 1, "name")]
    assert decode() == []


def test_entities_that_have_no_tags(tokenizer):
    # Within a token; across the limit; over another one.
    text = "ab 中国 家"
    entities = [Entity(0, 1, "name"), Entity(3, 5, "place"), Entity(4, 5, "name")]
    encoded = Tagging(TYPES).encode([Example(text, entities)], tokenizer, 1000)
    assert encoded.labels[0].tolist() == [-1, -1, 1, 2, 0, -1]
    assert encoded.dropped == 2
    encoded = Tagging(TYPES).encode([Example(text, entities)], tokenizer, 5)
    assert encoded.labels[0].tolist() == [-1, -1, -1, -1, -1]
    assert (encoded.dropped, encoded.cut.tolist()) == (3, [True])


def test_seqevals_score(tokenizer):
    task = Tagging(TYPES)
    examples = [
        Example("中国家", [Entity(0, 2, "place"), Entity(2, 3, "name")]),
        Example("中中中国国国家", [Entity(0, 1, "name"), Entity(6, 7, "name")]),
    ]
    encoded = task.encode(examples, tokenizer, 8)  # which cuts the second one's last entity off
    assert encoded.dropped == 1
    right = [one_hot(labels, 5) for labels in encoded.labels]
    assert task.measure(right, encoded) == {"f1": 6 / 7, "precision": 1.0, "recall": 3 / 4}
    wrong = [one_hot([0, 1, 0, 3, 0], 5), one_hot([0] * 8, 5)]  # one of two is right, of four
    assert task.measure(wrong, encoded) == {"f1": 1 / 3, "precision": 1 / 2, "recall": 1 / 4}
    nothing = [one_hot(0 * labels, 5) for labels in encoded.labels]
    assert set(task.measure(nothing, encoded).values()) == {0.0}


# The tags of a model.


SCHEMES = {
    "BIO": ["O", "B-x", "I-x", "B-y-z", "I-y-z"],
    "BIOES": [f"{part}-{type}" for type in "xy" for part in "BIES"] + ["O"],
    "IO": ["I-x", "I-y", "O"],
}


@settings(LAWS, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_those_of_seqeval(scheme, data):
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.metrics.sequence_labeling import get_entities

    tags = st.sampled_from(SCHEMES[scheme])
    sides = data.draw(
        st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=9), min_size=1, max_size=3)
    )
    wanted, found = ([[pair[side] for pair in text] for text in sides] for side in (0, 1))
    for text in wanted:
        spans = [(type, start, end - 1) for start, end, type in tag_spans(text)]
        assert spans == get_entities(text)
    task = TokenClassification(SCHEMES[scheme])
    numbers = [np.array([task.labels.index(tag) for tag in text]) for text in wanted]
    outputs = [np.eye(9)[[task.labels.index(tag) for tag in text]] for text in found]
    scores = task.measure(outputs, Encoded([], numbers))
    for metric, function in (
        ("f1", f1_score),
        ("precision", precision_score),
        ("recall", recall_score),
    ):
        assert scores[metric] == pytest.approx(function(wanted, found, zero_division=0))


def test_ends_by_another_name():
    assert tag_spans(["B-x", "L-x", "U-x", "U-x"]) == [(0, 2, "x"), (2, 3, "x"), (3, 4, "x")]


def test_tags_of_words_and_characters(tokenizer):
    task = TokenClassification(["B-x", "I-x", "O"])
    examples = [
        Words(("ab1", "中国", "e,", "\u200b", "x"), (0, 1, 2, 2, 0)),
        Example("ab1 中国 e,", tuple([0] * 3 + [2] + [0, 1] + [2] * 3)),
        Example("a ab", None),
    ]
    encoded = task.encode(examples, tokenizer, 16)
    tokens = [[VOCAB[i] for i in ids] for ids in encoded.token_ids]
    assert tokens[0] == ["[CLS]", "ab", "##1", "中", "国", "e", ",", "x", "[SEP]"]
    # The first token of a word has its tag; a word without tokens has none.
    assert encoded.labels[0].tolist() == [-1, 0, -1, 1, -1, 2, -1, 0, -1]
    # Without words given, BERT's own are taken: each Chinese character, each comma.
    assert tokens[1] == tokens[0][:7] + ["[SEP]"]
    assert encoded.labels[1].tolist() == [-1, 0, -1, 0, 1, 2, 2, -1]
    assert encoded.labels[2].tolist() == [-1] * 4
    spans = [[span for span in o.tolist() if span[0] < span[1]] for o in encoded.offsets]
    assert spans[0] == [[0, 1], [1, 2], [2, 3], [4, 5]]
    assert [examples[1].text[slice(*span)] for span in spans[1]] == ["ab1", "中", "国", "e", ","]
    assert [examples[2].text[slice(*span)] for span in spans[2]] == ["a", "ab"]
    outputs = [np.eye(3)[np.maximum(labels, 0)] for labels in encoded.labels]
    assert task.decode(outputs, encoded)[:2] == [
        ["B-x", "I-x", "O", "B-x"],
        ["B-x", "B-x", "I-x", "O", "O"],
    ]
    assert task.measure(outputs, encoded) == dict.fromkeys(
        ("f1", "accuracy", "precision", "recall"), 1
    )
    assert encoded.dropped == 1
    # What is cut off does not count, as in transformers.
    cut = task.encode(examples[:1], tokenizer, 5)
    assert cut.labels[0].tolist() == [-1, 0, -1, 1, -1]
    assert (cut.cut.tolist(), cut.dropped) == ([True], 3)
    assert task.measure(outputs[:1], cut)["recall"] == 1
    batches = task.batches(examples, tokenizer, 16, batch_size=3, shuffle=False)
    assert batches[0][1].shape == (3, 9)


def test_other_tags_are_scored_by_the_word(tokenizer):
    task = TokenClassification(["NOUN", "VERB"])
    assert task.metric == "accuracy"
    encoded = task.encode([Words(("a", "b", "x1"), (0, 1, 1))], tokenizer, 16)
    assert task.measure([np.eye(2)[[1, 0, 0, 1, 0, 0]]], encoded) == {"accuracy": 2 / 3}


def test_texts_without_labels_have_values_that_are_none(tokenizer):
    examples = [Example("a", None), Pair("a", "b", None)]
    for task, expected in (
        (Classification("ab"), [-1, -1]),
        (MultiLabel("ab"), [[np.nan] * 2] * 2),
        (Regression(), [[np.nan]] * 2),
    ):
        np.testing.assert_array_equal(task.encode(examples, tokenizer, 8).labels, expected)
    with pytest.raises(ValueError, match=r"Example 0: .*Received: None"):
        Classification("ab").encode([examples[0], Example("a", 0)], tokenizer, 8)


# Other labels.


def test_pairs(tokenizer):
    task = Classification(["no", "yes"])
    examples = [Pair("a b", "中国 家", 1), Example("x", 0)]
    batches = task.batches(examples, tokenizer, 16, shuffle=False, batch_size=2, multiple=1)
    (ids, segments), labels = batches[0]
    a, b, x, z, g, j = (VOCAB.index(token) for token in "abx中国家")
    assert ids.tolist() == [[2, x, 3, 0, 0, 0, 0, 0], [2, a, b, 3, z, g, j, 3]]
    assert segments.tolist() == [[0] * 8, [0, 0, 0, 0, 1, 1, 1, 1]]
    assert labels.tolist() == [0, 1]
    assert batches.rows.tolist() == [1, 0]
    # The longer one is cut.
    ids = task.encode(examples, tokenizer, 7).token_ids[0]
    assert ids.tolist() == [2, a, b, 3, z, g, 3]


def test_labels_by_token_are_padded(tokenizer):
    task = Tagging(TYPES)
    examples = [Example("中国", [Entity(0, 2, "name")]), Example("中国家", [])]
    batches = task.batches(examples, tokenizer, 16, batch_size=2, shuffle=False)
    inputs, labels = batches[0]
    assert inputs[0].tolist()[0][-1] == 0
    assert [row.tolist() for row in batches.labels] == [[-1, 3, 4, -1], [-1, 0, 0, 0, -1]]
    assert labels.tolist() == [[-1, 3, 4, -1, -1], [-1, 0, 0, 0, -1]]


def test_scores(tokenizer):
    def measured(task, labels, outputs):
        examples = [Example("a", label) for label in labels]
        return task.measure(list(np.array(outputs)), task.encode(examples, tokenizer, 8))

    classes = [0, 0, 1, 1]
    outputs = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9]]  # 2 of 3 positives are right
    for metric, score in {
        "accuracy": 3 / 4,
        "f1": 4 / 5,
        "macro_f1": (4 / 5 + 2 / 3) / 2,
        "matthews": 2 / np.sqrt(12),
    }.items():
        found = measured(Classification(["no", "yes"], metric), classes, outputs)
        assert found == {metric: pytest.approx(score)}
    labels = [[0, 1], (), {2}]
    outputs = [[0.9, 0.1, 0.2], [0.6, 0.0, 0.0], [0.1, 0.2, 0.5]]  # 2 of 3 right, and 1 too many
    assert measured(MultiLabel("abc"), labels, outputs) == {"micro_f1": pytest.approx(2 / 3)}
    assert measured(MultiLabel("abc", "macro_f1"), labels, outputs) == {
        "macro_f1": pytest.approx((2 / 3 + 0 + 1) / 3)
    }
    assert MultiLabel("abc").decode(outputs) == [["a"], ["a"], ["c"]]
    numbers, outputs = [1, 2.5, 4], [[0.0], [1.0], [9.0]]
    assert measured(Regression("spearman"), numbers, outputs) == {"spearman": 1.0}
    pearson = np.corrcoef(numbers, np.ravel(outputs))[0, 1]
    assert measured(Regression(), numbers, outputs) == {"pearson": pytest.approx(pearson)}
    assert measured(Regression(), numbers, [[1.0]] * 3) == {"pearson": 0.0}


def test_how_far_answers_overlap(tokenizer):
    task = SpanExtraction()
    examples = [Pair("a?", "中国 家家", span) for span in [(0, 2), (0, 5), None]]
    encoded = task.encode(examples, tokenizer, 16)
    assert encoded.labels.tolist() == [[4, 5], [4, 7], [0, 0]]
    outputs = [np.eye(9)[[4, 5]], np.eye(9)[[5, 6]], np.eye(9)[[0, 0]]]
    assert task.decode(outputs, encoded) == [(0, 2), (1, 4), None]
    # Of the second, two characters of four are right, and white space is none.
    assert task.measure(outputs, encoded) == {
        "f1": pytest.approx((1 + 2 / 3 + 1) / 3),
        "exact_match": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("task, example, problem", [
    (Classification("ab"), Example("a", 2), "Example 0: .* integer from 0 to 1. Received: 2"),
    (Classification("ab"), Example("a", 0.5), "integer from 0 to 1. Received: 0.5"),
    (MultiLabel("ab"), Example("a", 1), "list of integers from 0 to 1. Received: 1"),
    (MultiLabel("ab"), Example("a", [0, 2]), "list of integers from 0 to 1"),
    (Regression(), Example("a", "1"), "finite number. Received: '1'"),
    (Regression(), Example("a", float("nan")), "finite number. Received: nan"),
    (Tagging(TYPES), Example("a", [Entity(0, 2, "name")]), "within 0 to 1 of the types place, na"),
    (Tagging(TYPES), Example("a", [Entity(0, 1, "film")]), "of the types place, name.*film"),
    (Tagging(TYPES), Example("a", 3), r"must be a list of entities: \(start, end, type\).*3"),
    (Tagging(TYPES), Example("a", ["name"]), "must be a list of entities"),
    (TokenClassification("ab"), Example("a b", [0, 2, 1]), "a list of 3 integers from 0 to 1"),
    (TokenClassification("ab"), Words(("a b", "b"), [0]), "a list of 2 integers from 0 to 1"),
    (TokenClassification("ab"), Words(("a",), 0), "a list of 1 integers"),
    (SpanExtraction(), Example("a", (0, 1)), "must be a `Pair`"),
    (SpanExtraction(), Pair("a", "b", (1, 1)), r"\(start, end\) within 0 to 1"),
])  # fmt: skip
def test_labels_that_do_not_fit(tokenizer, task, example, problem):
    with pytest.raises(ValueError, match=problem):
        task.batches([example], tokenizer)


def test_a_question_longer_than_the_limit(tokenizer):
    with pytest.raises(ValueError, match=r"leave room for the second text\. Received: 2 tokens"):
        SpanExtraction().encode([Pair("a b x a b", "中国", None)], tokenizer, 5)


@pytest.mark.parametrize("build, problem", [
    (lambda: Classification([]), "`labels` must be different names"),
    (lambda: Classification("aa"), "`labels` must be different names"),
    (lambda: Classification("ab", "auc"), "must be one of .*accuracy.*.*'auc'"),
    (lambda: Classification("abc", "f1"), "must be two classes"),
    (lambda: MultiLabel("ab", threshold=0), "`threshold` must be a number in"),
    (lambda: Regression("r2"), "must be one of .*pearson.*spearman"),
    (lambda: TokenClassification(["NOUN", "O"], "f1"), r"`labels` must be O, B-.*NOUN"),
    (lambda: SpanExtraction(max_answer_length=0), "`max_answer_length` must be an integer"),
])  # fmt: skip
def test_tasks_that_cannot_be(build, problem):
    with pytest.raises(ValueError, match=problem):
        build()


@pytest.mark.parametrize("task, package", [
    (Tagging(TYPES), "seqeval: pip install setuptools setuptools-scm && .* seqeval"),
    (Classification("ab", "matthews"), "sklearn: pip install scikit-learn"),
    (Regression("spearman"), "scipy: pip install scipy"),
    (MultiLabel("ab", "macro_f1"), "sklearn: pip install scikit-learn"),
])  # fmt: skip
def test_packages_are_asked_for_before_anything_is_trained(task, package, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=f"The metric {task.metric!r} needs {package}"):
        task.options  # noqa: B018  a property that raises
    # The others need none.
    for task in (Classification("ab"), MultiLabel("ab"), Regression(), TokenClassification("ab")):
        task.check()
    assert Classification("ab").options["metrics"] == ("accuracy",)


def test_the_score_of_other_data(tokenizer):
    with pytest.raises(TypeError, match=r"Tagging.batches returns.* tuple"):
        Tagging(TYPES).score(None, (np.ones(1), np.ones(1)))
    assert isinstance(Regression().batches([Example("a", 1)], tokenizer), Batches)


# CLUENER.


def row(text, **label):
    return json.dumps({"text": text, "label": label}, ensure_ascii=False, indent=2)


@pytest.fixture
def cluener(tmp_path):
    rows = [row(f"在中国{i}", place={"中国": [[1, 2]]}) for i in range(20)]
    (tmp_path / "train.json").write_text("\n".join(rows), encoding="utf-8")
    dev = [row("家和家", name={"家": [[0, 0], [2, 2]]}), row("无")]
    (tmp_path / "dev.json").write_text("\n \n" + "".join(dev) + "\n", encoding="utf-8")
    return tmp_path


def test_cluener(cluener):
    corpus = load_cluener(cluener, validation_fraction=0.2, seed=1)
    assert corpus.labels == ["name", "place"]
    assert [len(part) for part in corpus[:3]] == [16, 4, 2]
    assert not {e.text for e in corpus.train} & {e.text for e in corpus.validation}
    assert all(example.label == (Entity(1, 3, "place"),) for example in corpus.train)
    assert corpus.dev[0] == Example("家和家", (Entity(0, 1, "name"), Entity(2, 3, "name")))
    assert len(load_cluener(cluener, limit=1 + 9).train) == 9
    # One object a line, as the original files are.
    lines = [json.dumps(json.loads(row("家", name={"家": [[0, 0]]})))] * 2
    (cluener / "dev.json").write_text("\n".join(lines), encoding="utf-8")
    assert len(load_cluener(cluener).dev) == 2


@pytest.mark.parametrize("content, problem", [
    (json.dumps({"text": "中\ud83d", "label": {}}), "dev.json, row 1: 'text' is not valid Unicode"),
    (row("中") + "[1]", "dev.json, row 2: must be an object with 'text' and 'label'"),
    ('{"text": "中"}', "dev.json, row 1: must be an object"),
    (row("中", name={"国": [[0, 0]]}), "row 1: bad entities of type 'name': '国' is not at 0 to 0"),
    (row("中", name={"中": [[0]]}), "row 1: bad entities of type 'name'"),
    (row("中", name=["中"]), "row 1: bad entities of type 'name'"),
    (row("中") + "{", "row 2: not JSON"),
    ("", "dev.json is empty"),
])  # fmt: skip
def test_bad_rows_of_cluener(cluener, content, problem):
    (cluener / "dev.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        load_cluener(cluener)


def test_cluener_that_is_not_there(cluener):
    with pytest.raises(FileNotFoundError, match="nowhere must be a folder"):
        load_cluener(cluener / "nowhere")
    (cluener / "dev.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dev\.json"):
        load_cluener(cluener)


# A folder of one's own.


def written(folder, rows):
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind, given, names, expected", [
    ("classification", ["yes", 7], ["7", "yes"], [1, 0]),
    ("multi-label", [["b", "a"], []], ["a", "b"], [[1, 0], []]),
    ("regression", [1, -0.5], [], [1, -0.5]),
    ("tagging", [[[0, 1, "x"]], []], ["x"], [(Entity(0, 1, "x"),), ()]),
    ("spans", [[0, 1], None], [], [[0, 1], None]),
])  # fmt: skip
def test_folder(tmp_path, tokenizer, kind, given, names, expected):
    pair = {} if kind == "tagging" else {"second_text": "中国"}
    rows = [{"text": f"a{i}", "label": given[i % 2], **pair} for i in range(10)]
    corpus = load_folder(written(tmp_path, rows), kind, validation_fraction=0.2)
    assert corpus.labels == names
    assert [len(part) for part in corpus[:3]] == [8, 2, 10]
    label = {row["text"]: expected[i % 2] for i, row in enumerate(rows)}
    for example in corpus.train + corpus.dev:
        assert example.label == label[example.text]
        assert example.second_text == pair.get("second_text")
    assert len(load_folder(tmp_path, kind, limit=4).dev) == 4
    tasks = {
        "classification": Classification,
        "multi-label": MultiLabel,
        "regression": lambda _: Regression(),
        "tagging": Tagging,
        "spans": lambda _: SpanExtraction(),
    }
    assert len(tasks[kind](names).batches(corpus.dev, tokenizer).labels) == 10


@pytest.mark.parametrize("kind, row, problem", [
    ("classification", {"text": "a"}, "row 1: must be an object with 'text' and 'label'"),
    ("classification", {"text": "a", "label": [1]}, r"must be the name of a class. .*\[1\]"),
    ("multi-label", {"text": "a", "label": "x"}, "must be a list of names of classes"),
    ("regression", {"text": "a", "label": True}, "must be a number. Received: True"),
    ("tagging", {"text": "a", "label": [[0, "x"]]}, r"a list of \[start, end, type\]"),
    ("tagging", {"text": "a", "label": [], "second_text": "b"}, "'second_text' must be absent"),
    ("spans", {"text": "a", "label": None}, "'second_text' must be a string"),
    ("spans", {"text": "a", "label": 1, "second_text": "b"}, r"must be \[start, end\] or null"),
    ("regression", {"text": "a\ud83d", "label": 1}, "row 1: 'text' is not valid Unicode.*emoji"),
    ("regression", {"text": "a", "second_text": "\ud83d", "label": 1}, "'second_text' is not"),
    ("ranking", {"text": "a", "label": 1}, "must be one of .*classification.*.*'ranking'"),
])  # fmt: skip
def test_bad_rows_of_a_folder(tmp_path, kind, row, problem):
    with pytest.raises(ValueError, match=problem):
        load_folder(written(tmp_path, [row]), kind)


def test_a_folder_for_a_model_that_is_there(tmp_path):
    rows = [{"text": f"a{i}", "label": "yn"[i % 2]} for i in range(10)]
    folder = written(tmp_path, rows)
    corpus = load_folder(folder, "classification", labels=["y", "maybe", "n"])
    assert corpus.labels == ["y", "maybe", "n"]
    assert {(example.text, example.label) for example in corpus.dev} == {
        (f"a{i}", 2 * (i % 2)) for i in range(10)
    }
    with pytest.raises(
        ValueError, match=r"must hold all labels of the files, n, y\. Received: y, z"
    ):
        load_folder(folder, "classification", labels=["y", "z"])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere must be a folder"):
        load_folder(tmp_path / "nowhere", "regression")
