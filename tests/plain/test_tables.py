"""Tables of texts in every format: the same rows, and errors that name the place."""

import gzip
import json

import pytest

from bert_of_theseus.data import read_table
from bert_of_theseus.data.formats import RowError
from bert_of_theseus.data.tables import FORMATS, iterate

ROWS = [
    {"text": "a good, film", "label": "pos"},
    {"text": 'two\nlines; "quoted"\tand tabs', "label": "neg"},
    {"text": "天\u2028气\x85 é😀", "label": "pos"},
]
CSV = 'text,label\r\n"a good, film",pos\r\n"two\nlines; ""quoted""\tand tabs",neg\r\n'
CSV += "天\u2028气\x85 é😀,pos\r\n"


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def in_every_format(folder):
    import pyarrow
    import pyarrow.parquet

    array = json.dumps(ROWS, indent=1)
    files = {
        "a.csv": CSV,
        "bom.csv": "\ufeff" + CSV,
        "semicolons.csv": CSV.replace('"a good, film",', '"a good, film";')
        .replace("text,", "text;")
        .replace('",neg', '";neg')
        .replace("😀,", "😀;"),
        "a.tsv": CSV.replace('"a good, film",', "a good, film\t")
        .replace("text,", "text\t")
        .replace('",neg', '"\tneg')
        .replace("😀,", "😀\t"),
        "lines.jsonl": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n",
        "array.json": array,
        "array.JSON": "\ufeff" + json.dumps(ROWS, ensure_ascii=False),
        "objects.json": "".join(json.dumps(row, indent=1) for row in ROWS),
        "lines.json": "\n".join(map(json.dumps, ROWS)),
    }
    paths = [written(folder / name, content) for name, content in files.items()]
    path = folder / "a.json.gz"
    path.write_bytes(gzip.compress(array.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
    return [*paths, path, folder / "a.parquet"]


def test_every_format_holds_the_same_rows(tmp_path):
    for path in in_every_format(tmp_path):
        table = read_table(path)
        assert list(table) == ROWS, path
        assert table.columns == ["text", "label"]
        lines = path.suffix == ".jsonl"  # whose numbers are those of the lines
        assert [row.number for row in table] == ([1, 3, 5] if lines else [1, 2, 3])
    assert [row.where for row in read_table(tmp_path / "a.csv")] == [
        *("row 1 (line 2)", "row 2 (line 3)", "row 3 (line 5)")
    ]
    assert [row.where for row in read_table(tmp_path / "lines.jsonl")] == [
        *("line 1", "line 3", "line 5")
    ]


def test_text_and_conll(tmp_path):
    path = written(tmp_path / "a.txt", "\ufeffone\r\n\n two\u2028\nthree")
    assert [row["text"] for row in read_table(path)] == ["one", " two\u2028", "three"]
    text = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n"
    (tokens, tags), other = map(dict.values, read_table(written(tmp_path / "a.conll", text)))
    assert (tokens, tags) == (["EU", "rejects"], ["B-ORG", "O"])
    assert list(other) == [["Peter"], ["B-PER"]]
    assert read_table(written(tmp_path / "b.conll", "a\tx y\tO\n"))[0]["tokens"] == ["a"]
    assert read_table(written(tmp_path / "c.conll", "a\nb\n")) == [{"tokens": ["a", "b"]}]


def test_quotation_marks_that_belong_to_the_text(tmp_path):
    """GLUE's TSV has no quoting; that of pandas has."""
    lines = ["text\tlabel", '"so" good\t0', '"one\t1', 'two"\t0', '"quoted ""x"""\t1']
    lines += ['"a\tb"\t1', '"c\nd"\t0', "\t1"]
    table = read_table(written(tmp_path / "a.tsv", "\n".join(lines)))
    assert [row["text"] for row in table] == [
        *('"so" good', '"one', 'two"', 'quoted "x"', "a\tb", "c\nd", "")
    ]


def test_columns_by_number(tmp_path):
    path = written(tmp_path / "a.csv", 'pos,"a, b"\nneg,c\n')
    assert list(read_table(path, header=False)) == [
        {"1": "pos", "2": "a, b"},
        {"1": "neg", "2": "c"},
    ]
    assert read_table(written(tmp_path / "a.tsv", "x\ty"), header=False) == [{"1": "x", "2": "y"}]
    path = written(tmp_path / "b.csv", "a, b;pos\n")
    with pytest.raises(ValueError, match=r"b\.csv: line 1 may be separated by ',' or ';'"):
        read_table(path, header=False)
    assert read_table(path, header=False, delimiter=";") == [{"1": "a, b", "2": "pos"}]
    # pandas' index has no name.
    assert read_table(written(path, ",text\n0,a\n")) == [{"column 1": "0", "text": "a"}]


BAD = [
    ("a.csv", b"", "is empty"),
    ("a.csv", b"text,label\n", "is empty"),
    ("a.csv", b"text,label\na,b\n\nc\n", r"row 2 \(line 4\): has 1 fields, and there are 2"),
    ("a.csv", b"text\na good, film\n", r"row 1 \(line 2\): has 2 fields, and there are 1"),
    ("a.csv", b"text,text\na,b\n", "the header has column 'text' twice"),
    ("a.csv", b"text,label;x\na,b\n", "may be separated by ',' or ';'"),
    ("a.csv", b'text,label\n"a\nb",1\n"c\xff\n",1', r"row 2 \(line 4\): not UTF-8: byte 0xff"),
    ("a.csv", b"te\xe9xt,label\na,b\n", "line 1: not UTF-8: byte 0xe9"),
    ("a.csv", b"text,label\na\0,b\n", r"row 1 \(line 2\): holds a NUL"),
    ("a.csv", b'text,label\na,b\n"c,d\ne,f\n', r"row 2 \(line 3\): a quotation mark is not closed"),
    ("a.csv", b'text,label\n"c"d,e\n', r"row 1 \(line 2\): bad quotation marks"),
    ("a.csv", b"text,label\rc,e\r", "line 1: bad quotation marks or line ends"),
    ("a.csv", "text\na\n".encode("utf-16"), "must be UTF-8. It is UTF-16"),
    ("a.tsv", b"text\tlabel\na\n", r"row 1 \(line 2\): has 1 fields, and there are 2"),
    ("a.tsv", b'text\tlabel\n"a\n', r"row 1 \(line 2\): a quotation mark is not closed"),
    ("a.tsv", b'text\n"a\nb"\n', r"row 1 \(line 2\): a quotation mark is not closed"),
    ("a.tsv", b"text\tlabel\na\t\xff\n", r"row 1 \(line 2\): not UTF-8"),
    ("a.txt", b"a\n\xff", "line 2: not UTF-8: invalid start byte at byte 1"),
    ("a.txt", b"a\0b", "line 1: holds a NUL"),
    ("a.txt", b" \n\n", "is empty"),
    ("a.jsonl", b'{"a": 1}\n[1]', "line 2: expected a JSON object, received list"),
    ("a.jsonl", b'{"a": 1}\n{"a": }', "line 2: not JSON"),
    ("a.jsonl", b'{"a": NaN}', "line 1: not JSON: NaN is no number"),
    ("a.jsonl", b'{"a": 1e999}', "line 1: not JSON: 1e999 is too large"),
    ("a.jsonl", b'{"a": 1, "a": 2}', "line 1: not JSON: 'a' stands there twice"),
    ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "line 1: not JSON"),
    ("a.jsonl", b'{"a": "\xed\xa0\x80"}', "line 1: not UTF-8"),
    ("a.json", b'[{"a": 1}, {"a": }]', "row 2: not JSON"),
    ("a.json", b'[{"a": 1} {"a": 2}]', "row 2: not JSON: a comma or ] must follow"),
    ("a.json", b'[{"a": 1},, {"a": 2}]', "row 2: not JSON"),
    ("a.json", b'[{"a": 1}', "row 2: not JSON: the array has no end"),
    ("a.json", b'[{"a": 1}]{"a": 2}', "row 2: not JSON: there is more after the array"),
    ("a.json", b'{"a": 1} x', "row 2: not JSON"),
    ("a.json", b"[1]", "row 1: expected a JSON object, received int"),
    ("a.json", b"[]", "is empty"),
    ("a.json", b'[{"a": "\xff"}]', "row 1: not UTF-8"),
    ("a.json", b"[" * 100_000, "row 1: not JSON"),
    ("a.json.gz", gzip.compress(b'[{"a": "long enough"}]')[:-12], "is no whole gzip file"),
    ("a.json.gz", b"[]", "is no whole gzip file"),
    ("a.parquet", b"PAR1", r"is no Parquet file"),
    ("a.conll", b"a O\nb N O\n", "line 2: has 3 fields, and those above have 2"),
    ("a.conll", b"a O\n\xff O\n", "line 2: not UTF-8"),
    ("a.xlsx", b"PK", "must be of a format that its name tells"),
]


@pytest.mark.parametrize("name, content, problem", BAD)
def test_bad_files(tmp_path, name, content, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        read_table(written(tmp_path / name, content))
    assert str(caught.value).count(str(tmp_path / name)) == 1
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "a.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match="must be a file"):
            read_table(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.parquet: .*pip install pyarrow"):
        read_table(written(tmp_path / "a.parquet", b"PAR1"))


@pytest.mark.parametrize("name, content, good", [
    ("a.csv", 'text\na\n"b"c\nd\ne,f\ng\n', ["a", "d", "g"]),
    ("a.tsv", "text\tn\na\t1\nb\nd\t1\n", ["a", "d"]),
    ("a.jsonl", '{"text": "a"}\n\n[\n{"text": "d"}', ["a", "d"]),
    ("a.txt", "a\n\nd\n", ["a", "d"]),
])  # fmt: skip
def test_after_a_bad_row_the_others_follow(tmp_path, name, content, good):
    rows = list(iterate(written(tmp_path / name, content), name[2:]))
    assert [row["text"] for row in rows if not isinstance(row, RowError)] == good
    assert any(isinstance(row, RowError) for row in rows)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))


def test_rows_come_as_soon_as_they_are_whole():
    from bert_of_theseus.data.formats import parse

    given = {
        "csv": [b"text,n\n", b'"a\n', b'b",1\n', b"c,2\n"],
        "tsv": [b"text\tn\n", b"a\t", b"1\n", b"c\t2\n"],
        "jsonl": [b'{"text":', b' "a"', b"}\n", b'{"text": "c"}\n'],
        "json": [b"[", b'{"text":', b' "a"}', b', {"text": "c"}]'],
        "txt": [b"a", b"b", b"\n", b"c\n"],
        "conll": [b"a O\n", b"b O\n", b"\n", b"c O\n"],
    }
    assert {*given, "parquet"} == set(FORMATS)
    for format, chunks in given.items():
        taken = []
        chunks = (taken.append(chunk) or chunk for chunk in chunks)
        next(parse(chunks, format))
        assert len(taken) == 3, format


def test_the_names_that_the_hub_gives(tmp_path):
    import pyarrow
    import pyarrow.parquet

    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["O", "B-x"], "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    table = pyarrow.Table.from_pylist([{"text": "a", "label": 1, "tags": [0]}])
    said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table.replace_schema_metadata(said), path)
    assert read_table(path).class_names == {"label": ["neg", "pos"], "tags": ["O", "B-x"]}
