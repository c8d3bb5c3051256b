"""Texts with labels for a model that is there, from files as people have them."""

import functools
import json

import pyarrow
import pyarrow.parquet
import pytest

from bert_of_theseus.data import (
    Classification,
    Example,
    MultiLabel,
    Pair,
    Regression,
    TokenClassification,
    Words,
    load_texts,
    task_for,
)

NAMES = ["positive", "neutral", "negative"]  # not in alphabetical order
TAGS = ["B-PER", "I-PER", "O"]
COUNT = 40


def written(path, content):
    """A file of text, of rows for JSON lines, or of columns for CSV."""
    if isinstance(content, list):
        content = "\n".join(map(json.dumps, content))
    path.write_text(content, encoding="utf-8")
    return path


def csv(*rows, header="text,label", count=COUNT):
    """A CSV file of rows with numbers in them, over and over."""
    lines = [rows[i % len(rows)].replace("#", str(i)) for i in range(count)]
    return "\n".join([header, *lines]) + "\n"


def lines(*rows, count=COUNT):
    text = json.dumps(rows)
    return [json.loads(text.replace("#", str(i)))[i % len(rows)] for i in range(count)]


def everything(corpus):
    return [*corpus.train, *corpus.validation, *corpus.dev]


CLASSES = {
    "names": csv("t#,positive", "t#,neutral", "t#,negative"),
    "names in other case": csv("t#,Positive", "t#, NEUTRAL ", "t#,negative"),
    "numbers": csv("t#,0", "t#,1", "t#,2"),
    "with what pandas adds": csv("#,t#,0", "#,t#,1", "#,t#,2", header=",text,label"),
    "other usual names": csv("t#,0", "t#,1", "t#,2", header="Review,Sentiment"),
    "with names of the numbers": csv("t#,0,p", "t#,1,z", "t#,2,n", header="text,label,label_text"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes(tmp_path, case):
    corpus = load_texts(
        written(tmp_path / "a.csv", CLASSES[case]), kind="classification", labels=NAMES
    )
    assert corpus.labels == NAMES
    assert [len(part) for part in corpus[:3]] == [32, 4, 4]
    assert sorted(everything(corpus)) == sorted(Example(f"t{i}", i % 3) for i in range(COUNT))


KINDS = {
    "one string": (
        "multi-label",
        csv('t#,"negative, positive"', "t#,neutral", "t#,"),
        [[0, 2], [1], []],
    ),
    "bars": ("multi-label", csv("t#,negative|positive", "t#,neutral", "t#,"), [[0, 2], [1], []]),
    "numbers in a string": ("multi-label", csv('t#,"0,2"', "t#,1", "t#,"), [[0, 2], [1], []]),
    "as pandas writes lists": (
        "multi-label",
        csv("t#,\"['negative', 'positive']\"", "t#,['neutral']", "t#,[]"),
        [[0, 2], [1], []],
    ),
    "a column each": (
        "multi-label",
        csv("t#,1,0,1", "t#,0,1,0", "t#,0,0,0", header="text,positive,neutral,negative"),
        [[0, 2], [1], []],
    ),
    "lists of names": (
        "multi-label",
        lines(*({"text": "t#", "labels": x} for x in (["positive", "negative"], ["neutral"], []))),
        [[0, 2], [1], []],
    ),
    "lists of numbers": (
        "multi-label",
        lines(*({"text": "t#", "labels": x} for x in ([2, 0], [1], []))),
        [[0, 2], [1], []],
    ),
    "lists of 0 and 1": (
        "multi-label",
        lines(*({"text": "t#", "labels": x} for x in ([1, 0, 1], [0, 1, 0], [0.0, 0, 0]))),
        [[0, 2], [1], []],
    ),
    "numbers to predict": (
        "regression",
        csv("t#,1", "t#,-2.5e0", "t#,-1", header="text,score"),
        [1, -2.5, -1],
    ),
    "numbers in JSON": (
        "regression",
        lines({"text": "t#", "label": 1}, {"text": "t#", "label": 0.5}),
        [1, 0.5],
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_lists_and_numbers(tmp_path, case):
    kind, content, expected = KINDS[case]
    path = tmp_path / ("a.csv" if isinstance(content, str) else "a.jsonl")
    corpus = load_texts(written(path, content), kind=kind, labels=NAMES)
    found = {example.text: example.label for example in everything(corpus)}
    assert found == {f"t{i}": expected[i % len(expected)] for i in range(COUNT)}


ADA = Words(("Ada", "#"), (0, 2))
TAGGED = {
    "a.conll": ("Ada B-PER\n# O\n\n", ADA),
    "a.txt": ("Ada X B-PER\n# X O\n\n", ADA),
    "words.jsonl": ({"tokens": ["Ada", "#"], "ner_tags": ["B-PER", "O"], "pos_tags": [1, 2]}, ADA),
    "numbers.jsonl": ({"tokens": ["Ada", "#"], "ner_tags": [0, 2], "id": 7}, ADA),
    "spaces.csv": ("Ada #,B-PER O\n", ADA),
    "pandas.csv": ("\"['Ada', '#']\",\"['B-PER', 'O']\"\n", ADA),
    "characters.jsonl": ({"text": "A#", "tags": ["B-PER", "O"]}, Example("A#", (0, 2))),
    "entities.jsonl": ({"text": "Ada#", "label": [[0, 3, "PER"]]}, Example("Ada#", (0, 1, 1, 2))),
    "nothing.jsonl": ({"text": "O#", "label": []}, Example("O#", (2, 2))),
}


@pytest.mark.parametrize("name", TAGGED)
def test_tags(tmp_path, name):
    row, example = TAGGED[name]
    letters = "abcdefghijklmnopqrst"
    if isinstance(row, str):
        content = "sentence,tags\n" * name.endswith("csv") + "".join(
            row.replace("#", x) for x in letters
        )
    else:
        content = [json.loads(json.dumps(row).replace("#", x)) for x in letters]
        content.append({**content[0], **json.loads(json.dumps(TAGGED["characters.jsonl"][0]))})
        content[-1] = (
            content[0] if "nothing" not in name else {"text": "Z.", "label": [[0, 1, "PER"]]}
        )
    corpus = load_texts(written(tmp_path / name, content), kind="tagging", labels=TAGS)
    for found in everything(corpus):
        if found.text != "Z.":
            letter = found.text[-1]
            assert found in (
                example._replace(words=("Ada", letter)) if isinstance(example, Words)
                else example._replace(text=example.text.replace("#", letter)),
            )  # fmt: skip


def test_pairs_and_named_columns(tmp_path):
    path = written(
        tmp_path / "a.csv", csv("p#,h#,0,x", "p#,h#,1,x", header="premise,hypothesis,gold,note")
    )
    corpus = load_texts(path, kind="classification", labels=NAMES, label_column="gold")
    assert sorted(everything(corpus)) == sorted(Pair(f"p{i}", f"h{i}", i % 2) for i in range(COUNT))
    corpus = load_texts(
        path,
        kind="classification",
        labels=NAMES,
        text_columns=["premise", "note"],
        label_column="gold",
    )
    assert Pair("p3", "x", 1) in everything(corpus)
    path = written(tmp_path / "b.tsv", csv("0\tt#", "1\tt#", header="0\tt").replace("0\tt\n", ""))
    corpus = load_texts(
        path, kind="classification", labels=NAMES, text_columns=["2"], label_column="1"
    )
    assert Example("t3", 1) in everything(corpus)


def test_a_folder(tmp_path):
    written(tmp_path / "train.csv", csv("t#,0", "t#,1"))
    written(tmp_path / "dev.jsonl", lines({"text": "d#", "label": "neutral"}, count=3))
    written(tmp_path / "notes.txt", "no data")
    corpus = load_texts(tmp_path, kind="classification", labels=NAMES)
    assert [len(part) for part in corpus[:3]] == [36, 3, 4]
    assert corpus.validation[0] == Example("d0", 1)
    other = written(tmp_path / "other.tsv", csv("o#\t2", header="text\tlabel", count=2))
    corpus = load_texts(tmp_path, kind="classification", labels=NAMES, test=other)
    assert [len(part) for part in corpus[:3]] == [40, 3, 2]
    assert corpus.dev[1] == Example("o1", 2)
    assert len(load_texts(tmp_path, kind="classification", labels=NAMES, limit=30).train) == 27
    assert load_texts(tmp_path, kind="classification", seed=3) == load_texts(
        tmp_path, kind="classification", seed=3
    )
    for name in ("train.tsv", "valid.csv"):
        path = written(tmp_path / name, "text\n")
        with pytest.raises(ValueError, match=f"must hold one file named .*{name}"):
            load_texts(tmp_path, kind="classification")
        path.unlink()


def test_parts_of_a_set(tmp_path):
    for part in range(2):
        written(tmp_path / f"train-0000{part}-of-00002.csv", csv(f"{part}t#,{part}"))  # sorted
    assert len(everything(load_texts(tmp_path, kind="classification", labels=NAMES))) == 80
    (tmp_path / "train-00001-of-00002.csv").unlink()
    with pytest.raises(ValueError, match="but one part of several: train-00000"):
        load_texts(tmp_path, kind="classification")


UNLABELLED = {
    "a.txt": "\n".join(f"t{i}" for i in range(COUNT)),
    "a.csv": csv("t#", header="text"),
    "b.csv": csv("#,t#", header="id,text"),
    "a.jsonl": lines({"sentence": "t#", "label": -1}),
    "c.csv": csv("t#,-1"),
}


@pytest.mark.parametrize("name", UNLABELLED)
def test_texts_without_labels(tmp_path, name):
    corpus = load_texts(
        written(tmp_path / name, UNLABELLED[name]), kind="classification", labels=NAMES
    )
    assert sorted(everything(corpus)) == sorted(Example(f"t{i}", None) for i in range(COUNT))
    assert corpus.labels == NAMES


def test_nothing_is_split_off_if_that_is_asked_for(tmp_path):
    path = written(tmp_path / "a.txt", "one text")
    corpus = load_texts(path, kind="classification", labels=NAMES, validation_fraction=0)
    assert corpus == ([Example("one text", None)], [], [], NAMES)


def test_a_test_set_alone_may_have_labels(tmp_path):
    train = written(tmp_path / "a.txt", UNLABELLED["a.txt"])
    test = written(tmp_path / "b.csv", CLASSES["names"])
    corpus = load_texts(train, kind="classification", labels=NAMES, test=test)
    assert {example.label for example in corpus.train} == {None}
    assert {example.label for example in corpus.dev} == {0, 1, 2}
    path = written(tmp_path / "c.csv", csv("t#,x", header="text,stars"))
    assert (
        load_texts(path, kind="classification", labels=NAMES, label_column="").train[0].label
        is None
    )
    words = written(tmp_path / "d.jsonl", lines({"tokens": ["a", "#"]}))
    assert Words(("a", "3"), None) in everything(load_texts(words, kind="tagging", labels=TAGS))


def test_names_of_the_data_where_there_is_no_model(tmp_path):
    path = written(tmp_path / "a.csv", CLASSES["names"])
    assert load_texts(path, kind="classification").labels == sorted(NAMES)
    path = written(tmp_path / "b.csv", csv("t#,10", "t#,9"))
    assert load_texts(path, kind="classification").labels == ["9", "10"]
    path = written(tmp_path / "c.csv", csv("t#,1", "t#,2", "t#,3"))
    test = written(tmp_path / "d.csv", csv("t#,1", "t#,2", count=2))
    corpus = load_texts(path, kind="classification", test=test)
    assert (corpus.labels, [e.label for e in corpus.dev]) == (["1", "2", "3"], [0, 1])
    path = written(tmp_path / "a.conll", "a B-x\nb I-x\nc B-a\nd O\n\n" * 20 + "e O\n\nf O\n\ng O")
    assert load_texts(path, kind="tagging").labels == ["O", "B-a", "B-x", "I-x"]


def on_the_hub(path, names, labels):
    feature = {"names": names, "_type": "ClassLabel"}
    said = {"info": {"features": {"label": feature, "text": {"_type": "Value"}}}}
    rows = [{"text": f"t{i}", "label": labels[i % len(labels)]} for i in range(COUNT)]
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({b"huggingface": json.dumps(said).encode()})
    pyarrow.parquet.write_table(table, path)
    return path


def test_numbers_that_the_file_itself_names(tmp_path):
    path = on_the_hub(tmp_path / "a.parquet", ["Negative", "Neutral", "Positive"], [0, 1, 2])

    def first_three(labels):
        found = {
            e.text: e.label
            for e in everything(load_texts(path, kind="classification", labels=labels))
        }
        return [found[f"t{i}"] for i in range(3)]

    assert first_three(NAMES) == [2, 1, 0]
    assert first_three(["LABEL_0", "LABEL_1", "LABEL_2"]) == [0, 1, 2]
    assert load_texts(path, kind="classification").labels == ["Negative", "Neutral", "Positive"]
    for labels in (["LABEL_0", "LABEL_1"], ["a", "b", "c"]):
        with pytest.raises(
            ValueError, match=r"none of the model's.*; the file has Negative, Neutral"
        ):
            first_three(labels)


def bad(problem, content, name=None, kind="classification", labels=NAMES, **options):
    name = name or ("a.csv" if isinstance(content, str) else "a.jsonl")
    return pytest.param(problem, content, name, kind, labels, options, id=problem[:40])


bad_tags = functools.partial(bad, kind="tagging", labels=TAGS)
ENTITIES = {"text": "Ada #", "label": [[0, 3, "PER"]]}


@pytest.mark.parametrize(
    "problem, content, name, kind, labels, options",
    [
        # Columns.
        bad(
            r"a\.csv: no column 'body', but 'text', 'label'",
            CLASSES["names"],
            text_columns=["body"],
        ),
        bad(
            r"no column 'gold' with labels, but 'text', 'label'",
            CLASSES["names"],
            label_column="gold",
        ),
        bad(
            r"no column is known to hold texts: name it \(.*--text-column\). There are 'a', 'b'",
            csv("x#,0", header="a,b"),
        ),
        bad(
            r"several may hold the texts: name it \(.*--text-column\). There are 'text', 'title'",
            csv("x,y,0", header="text,title,label"),
        ),
        bad(
            r"several columns may hold the labels, 'label', 'category'",
            csv("x,1,0", header="text,label,category"),
        ),
        bad(
            r"no column is known to hold labels, and there are 'stars'",
            csv("x,5", header="text,stars"),
        ),
        bad(r"must stand in one column or in two", CLASSES["names"], text_columns=["text", "text"]),
        bad(
            r"a\.csv: there is a header, with 'text'",
            CLASSES["names"],
            text_columns=[1],
            label_column=2,
        ),
        # Texts.
        bad(r"column 'text' holds numbers alone", csv("#,positive")),
        bad(r"a\.csv, row 1 \(line 2\): column 'text' is empty", csv(" ,0", "t#,1")),
        bad(
            r"a\.jsonl, line 2: column 'text' must be a string, received int",
            lines({"text": "a", "label": 0}, {"text": 5, "label": 1}),
        ),
        bad(
            r"a\.jsonl, line 2: no column 'text', but 'label'",
            lines({"text": "a", "label": 0}, {"label": 1}),
        ),
        bad(
            r"a\.jsonl, line 1: column 'text' must be a string, received nothing",
            lines({"text": None, "label": 0}, {"text": "a", "label": 1}),
        ),
        bad(
            r"a\.jsonl, line 2: column 'text' is not valid Unicode: .* character 3, .* an emoji",
            lines({"text": "a", "label": 0}, {"text": "b \ud83d", "label": 1}),
        ),
        # Labels.
        bad(
            r"row 1 \(line 2\): label 'good' is none .* positive, neutral, negative; .* good, bad",
            csv("t#,good", "t#,bad"),
        ),
        bad(
            r"label 3 is none of the model's",
            lines({"text": "a", "label": 0}, {"text": "b", "label": 3}),
        ),
        bad(r"label '-1' is none", csv("t#,0", "t#,-1")),
        bad(r"label '0' is none of the model's", csv("t#,positive", "t#,0")),
        bad(
            r"The model has LABEL_0, LABEL_1; the file has a, b\. .*have no names",
            csv("t#,a", "t#,b"),
            labels=["LABEL_0", "LABEL_1"],
        ),
        bad(
            r"column 'label' may hold names of classes, or their numbers from 0",
            csv("t#,1", "t#,2"),
            labels=["1", "2", "3"],
        ),
        bad(
            r"every label is 'neutral', so nothing can be learned.* the model has positive",
            csv("t#,neutral"),
        ),
        bad(
            r"row 2 \(line 3\): column 'label' must be the name or number of a class, .*nothing",
            csv("t#,0", "t#,"),
        ),
        bad(r"received True", lines({"text": "a", "label": True})),
        bad(r"received 0\.5", lines({"text": "a", "label": 0.5})),
        bad(r"a\.csv: `examples` must be enough to split", csv("t,0", "u,1", count=2)),
        bad(r"a\.csv is empty", "text,label\n"),
        # Several labels.
        bad(
            r"label 'sad' is none of the model's", csv("t#,positive|sad", "t#,"), kind="multi-label"
        ),
        bad(
            r"must be a list of classes\. Received: 1",
            lines({"text": "a", "labels": 1}),
            kind="multi-label",
        ),
        bad(
            r"column 'neutral' must be 0 or 1\. Received: '2'",
            csv("t#,1,2,0", header="text,positive,neutral,negative"),
            kind="multi-label",
        ),
        bad(
            r"may hold numbers of classes, or 0 or 1 for each",
            lines({"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [1, 0]}),
            kind="multi-label",
            labels=["x", "y"],
        ),
        # Numbers.
        bad(
            r"column 'score' must be a finite number\. Received: 'nan'",
            csv("t#,nan", header="text,score"),
            kind="regression",
        ),
        bad(
            r"must be a finite number\. Received: True",
            lines({"text": "a", "score": True}),
            kind="regression",
        ),
        bad(r"every label is 2\.0", csv("t#,2"), kind="regression"),
        # Tags.
        bad_tags(
            r"line 1: label 'B-LOC' is none .* has B-PER, I-PER, O; .* has B-LOC, O",
            lines({"tokens": ["a", "b"], "tags": ["B-LOC", "O"]}),
        ),
        bad_tags(r"label 'b-per' is none", "a b-per\nb O\n\n" * 9, "a.conll"),
        bad_tags(
            r"there are 2 words, and 1 tags",
            lines({"tokens": ["a", "b"], "tags": ["O"]}),
        ),
        bad_tags(
            r"there are 3 characters, and 1 tags",
            lines({"text": "a b", "tags": ["O"]}),
        ),
        bad_tags(
            r"must be a list of tags\. Received: 3",
            lines({"tokens": ["a"], "tags": 3}),
        ),
        bad_tags(
            r"words must be strings",
            lines({"tokens": ["a", 1], "tags": [0, 1]}),
        ),
        bad_tags(
            r"column 'tokens' is empty",
            lines({"tokens": ["\u00a0", ""], "tags": [0, 1]}),
        ),
        bad_tags(
            r"entity \[0, 9, 'PER'\] must lie within 0 to 5",
            lines({**ENTITIES, "label": [[0, 9, "PER"]]}, count=9),
        ),
        bad_tags(
            r"overlaps another",
            lines({**ENTITIES, "label": [[0, 3, "PER"], [1, 2, "PER"]]}),
        ),
        bad_tags(
            r"must be a list of \[start, end, type\]",
            lines({**ENTITIES, "label": [[0, "PER"]]}),
        ),
        bad_tags(
            r"label 'B-PER' is none of the model's",
            lines(ENTITIES),
            labels=["O", "I-PER"],
        ),
        bad_tags(
            r"entities must be given as tags: the model marks their ends",
            lines(ENTITIES),
            labels=["O", "B-PER", "I-PER", "E-PER", "S-PER"],
        ),
        bad_tags(r"every label is", "a O\nb O\n\n" * 9, "a.conll"),
        bad(r"`kind` must be one of", "", kind="ranking"),
    ],
)
def test_what_is_refused(tmp_path, problem, content, name, kind, labels, options):
    path = written(tmp_path / name, content)
    with pytest.raises(ValueError, match=problem) as caught:
        load_texts(path, kind=kind, labels=labels, **options)
    assert "\n" not in str(caught.value)
    assert kind == "ranking" or str(path) in str(caught.value)


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold a file named train"):
        load_texts(tmp_path, kind="classification")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv must be a file"):
        load_texts(tmp_path / "nowhere.csv", kind="classification")


def test_tasks_of_these_kinds():
    assert type(task_for("classification", NAMES, "macro_f1")) is Classification
    assert task_for("classification", NAMES).labels == NAMES
    assert type(task_for("multi-label", NAMES)) is MultiLabel
    assert type(task_for("regression", ["LABEL_0"], "spearman")) is Regression
    assert type(task_for("tagging", TAGS)) is TokenClassification
    with pytest.raises(ValueError, match="`kind` must be one of"):
        task_for("spans", NAMES)
