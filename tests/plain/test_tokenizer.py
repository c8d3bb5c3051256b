"""Tokenizers: the ids that `transformers` gives, the same files out, and long texts."""

import concurrent.futures
import copy
import json
import random
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, BertWordPieceTokenizer, processors
from tokenizers_of import (
    PAIRS,
    TEXTS,
    WORDS,
    byte_pairs,
    unigrams,
    word_piece,
    write_config,
    write_json,
)

from bert_of_theseus.data import Example, Pair, Tokenizer, check_tokenizer
from bert_of_theseus.data.tokenizer_cut import MOST_CHARACTERS

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]
ALBERT = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
DEBERTA = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
OWN = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


@pytest.fixture(scope="module")
def vocabulary():
    vocab = word_piece()
    return sorted(vocab, key=vocab.get)


@pytest.fixture(scope="module")
def merges():
    return byte_pairs()


def write_bert(folder, tokens, settings=None, special=None, added=None, model_type="bert"):
    """A folder as older versions of `transformers` wrote it."""
    write_config(folder, model_type)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    named = {"tokenizer_config": settings, "special_tokens_map": special, "added_tokens": added}
    for name, content in named.items():
        if content is not None:
            write_json(folder / f"{name}.json", content)
    return folder


def write_roberta(folder, merges, settings=None):
    write_config(folder, "roberta")
    write_json(folder / "vocab.json", merges[0])
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges[1])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if settings is not None:
        write_json(folder / "tokenizer_config.json", settings)
    return folder


def write_unigrams(folder, model_type, special):
    """A tokenizer.json of Unigram, of which `transformers` takes the vocabulary."""
    tokens = unigrams(special) + ([("<mask>", 0.0)] if model_type == "xlm-roberta" else [])
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(tokens, 1))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[2]} $A {special[3]}",
        pair=f"{special[2]} $A {special[3]} $B:1 {special[3]}:1",
        special_tokens=[(special[2], 2), (special[3], 3)],
    )
    write_config(folder, model_type)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def added(index, content, **flags):
    no = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {str(index): {"content": content, **no, "special": True, **flags}}


# name -> function of a folder, the vocabulary and the merges
LEGACY = {
    "bert": lambda f, v, m: write_bert(f, v, OWN),
    "cased": lambda f, v, m: write_bert(f, v, {"do_lower_case": False}),
    "accents": lambda f, v, m: write_bert(f, v, {**OWN, "strip_accents": False}),
    "stripped": lambda f, v, m: write_bert(f, v, {"do_lower_case": False, "strip_accents": True}),
    "han": lambda f, v, m: write_bert(f, v, {**OWN, "tokenize_chinese_chars": False}),
    "added": lambda f, v, m: write_bert(
        f,
        v,
        {**OWN, "additional_special_tokens": ["[E1]"]},
        added={"[E1]": len(v), "new york": len(v) + 1},
    ),
    "additional": lambda f, v, m: write_bert(
        f, v, {**OWN, "additional_special_tokens": ["[E1]", "[URL]"]}
    ),
    "decoder": lambda f, v, m: write_bert(
        f,
        v,
        {
            **OWN,
            "never_split": None,
            "do_basic_tokenize": True,
            "added_tokens_decoder": {
                **added(4, "[MASK]", lstrip=True),
                **added(len(v), "[URL]", normalized=True, special=False, single_word=True),
            },
        },
        {"mask_token": "[nothing]"},
    ),
    "map": lambda f, v, m: write_bert(
        f,
        v,
        OWN,
        {"mask_token": added(4, "[MASK]", lstrip=True)["4"], "additional_special_tokens": ["[E1]"]},
        {"[E1]": len(v)},
    ),
    "names": lambda f, v, m: write_bert(
        f,
        ["<p>", "<u>", "<c>", "<s>", "<m>", *v[5:]],
        {
            **OWN,
            **{f"{n}_token": f"<{n[0]}>" for n in ("unk", "cls", "pad", "mask")},
            "sep_token": {"__type": "AddedToken", **added(3, "<s>")["3"]},
        },
    ),
    "last": lambda f, v, m: write_bert(f, [*v[1:], "[PAD]"], OWN),
    "left": lambda f, v, m: write_bert(f, v, {**OWN, "truncation_side": "left"}),
    "split": lambda f, v, m: write_bert(f, v, {**OWN, "split_special_tokens": True}),
    "gaps": lambda f, v, m: write_bert(f, [*v[:40], "", "", *v[40:], *v[50:60]], OWN),
    "lines": lambda f, v, m: write_bert(f, [f"{token} \r" for token in v], OWN),
    "distilbert": lambda f, v, m: write_bert(
        f, v, {**OWN, "tokenizer_class": "DistilBertTokenizerFast"}, model_type="distilbert"
    ),
    "electra": lambda f, v, m: write_bert(
        f, v, {**OWN, "tokenizer_class": "ElectraTokenizer"}, model_type="electra"
    ),
    "roberta": lambda f, v, m: write_roberta(f, m),
    "prefix": lambda f, v, m: write_roberta(f, m, {"add_prefix_space": True}),
}


def modern(transformers, folder, name, vocab, merges):
    """A folder as `transformers` 5 writes it."""
    model_type, make, special, options = {
        "bert": ("bert", "BertTokenizer", None, {}),
        "cased": ("bert", "BertTokenizer", None, {"do_lower_case": False}),
        "distilbert": ("distilbert", "DistilBertTokenizer", None, {}),
        "electra": ("electra", "BertTokenizer", None, {"strip_accents": False}),
        "roberta": ("roberta", "RobertaTokenizer", merges, {}),
        "prefix": ("roberta", "RobertaTokenizer", merges, {"add_prefix_space": True}),
        "xlm-roberta": ("xlm-roberta", "XLMRobertaTokenizer", ROBERTA, {}),
        "albert": ("albert", "AlbertTokenizer", ALBERT, {}),
        "kept": ("albert", "AlbertTokenizer", ALBERT, {"keep_accents": True}),
        "deberta": ("deberta-v2", "DebertaV2Tokenizer", DEBERTA, {}),
        "lower": ("deberta-v2", "DebertaV2Tokenizer", DEBERTA, {"do_lower_case": True}),
        "marks": ("deberta-v2", "DebertaV2Tokenizer", DEBERTA, {"split_by_punct": True}),
    }[name]
    if special is None:
        data = {"vocab": {token: number for number, token in enumerate(vocab)}}
    elif special is merges:
        data = {"vocab": merges[0], "merges": merges[1]}
    else:
        data = {"vocab": unigrams(special) + [("<mask>", 0.0)] * (special is ROBERTA)}
    tokenizer = getattr(transformers, make)(**data, **options)
    tokenizer.add_tokens(["ab cd", AddedToken("[URL]", normalized=False, lstrip=True)])
    tokenizer.add_special_tokens({"extra_special_tokens": ["[E1]"]})
    write_config(folder, model_type)
    tokenizer.save_pretrained(str(folder))
    return folder


def some(names, slow):
    """Names for `parametrize`; those in `slow` are left to the slow tier."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in slow)) for n in names]


MODERN = some(
    ["bert", "cased", "distilbert", "electra", "roberta", "prefix"]
    + ["xlm-roberta", "albert", "kept", "deberta", "lower", "marks"],
    ["cased", "electra", "roberta", "kept", "lower"],
)


def check_same(folder, transformers):
    """Compares with what `transformers` makes of the folder, on all texts."""
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
    wrong = []

    def compare(texts, encodings, found):
        for row, (text, encoding) in enumerate(zip(texts, encodings)):
            ids = found["input_ids"][row]
            types = found.get("token_type_ids", {row: [0] * len(ids)})[row]
            if encoding.ids != ids or encoding.type_ids != types:
                wrong.append((text, encoding.ids, ids))

    for length in (3, 5, 8, 512):
        options = {"truncation": True, "max_length": length}
        compare(TEXTS, ours.encode_batch(TEXTS, length), theirs(TEXTS, **options))
    for length in (8, 9, 16, 17, 64, 512):
        found = theirs(*map(list, zip(*PAIRS)), truncation=True, max_length=length)
        compare(PAIRS, ours.encode_batch(PAIRS, length), found)
    assert not wrong
    words = [text.split() for text in TEXTS if text.split()]
    if ours.directory.name.startswith("left"):
        return ours
    encoded = ours.encode_words(words, 20)
    for row, text in enumerate(words):
        found = theirs(text, is_split_into_words=True, truncation=True, max_length=20)
        assert encoded.token_ids[row].tolist() == found["input_ids"]
        numbers = found.word_ids()
        first = [n is not None and n != m for n, m in zip(numbers, [None, *numbers])]
        assert (encoded.offsets[row][:, 0] < encoded.offsets[row][:, 1]).tolist() == first
        assert encoded.offsets[row][first, 0].tolist() == [n for n, f in zip(numbers, first) if f]
    return ours


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "name", some(LEGACY, ["cased", "stripped", "han", "names", "gaps", "lines", "last", "prefix"])
)
def test_ids_are_those_of_transformers(name, tmp_path, vocabulary, merges, transformers):
    folder = LEGACY[name](tmp_path / name, vocabulary, merges)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokenizer = check_same(folder, transformers)
    out = tmp_path / f"{name}-saved"
    names = tokenizer.save(out)
    assert sorted(path.name for path in out.iterdir()) == names
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(names)
    assert all((out / n).read_bytes() == before[n] for n in before if n != "config.json")
    (out / "config.json").write_bytes(before["config.json"])
    check_same(out, transformers)
    # Programs that read tokenizer.json alone, such as transformers.js, find the same.
    alone = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    alone.encode_special_tokens = name == "split"
    assert [e.ids for e in alone.encode_batch(TEXTS)] == [
        e.ids for e in tokenizer.encode_batch(TEXTS, 512)
    ]


@pytest.mark.parametrize("name", MODERN)
def test_folders_of_transformers_5(name, tmp_path, vocabulary, merges, transformers):
    folder = modern(transformers, tmp_path / name, name, vocabulary, merges)
    names = ["tokenizer.json", "tokenizer_config.json"]
    before = {file: (folder / file).read_bytes() for file in names}
    tokenizer = check_same(folder, transformers)
    assert tokenizer.files() == [folder / file for file in names]
    assert tokenizer.save(tmp_path / "out") == names
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    segments = {"bert", "cased", "electra", "deberta", "lower", "marks"}
    assert tokenizer.num_segments == 1 + (name in segments)


def own_json(folder, vocabulary, settings, lowercase=False, model_type="bert", limits=True):
    """A tokenizer.json as the `tokenizers` library writes it, with truncation and padding."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=lowercase)._tokenizer
    if limits:
        tokenizer.enable_truncation(6)
        tokenizer.enable_padding(length=9)
    write_config(folder, model_type)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", settings)
    return folder


def test_truncation_and_padding_in_a_file_do_not_leak(tmp_path, vocabulary, transformers):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    folder = own_json(tmp_path / "own", vocabulary, {**settings, "pad_token": "[PAD]"})
    tokenizer = check_same(folder, transformers)
    assert (tokenizer.lowercase, tokenizer.num_segments) == (False, 2)
    check_same(own_json(tmp_path / "bert", vocabulary, OWN, lowercase=True), transformers)


def test_files_that_say_different_things_are_named(tmp_path, vocabulary, transformers):
    folder = own_json(tmp_path / "a", vocabulary, OWN)  # lower-cased by one file only
    with pytest.warns(UserWarning, match=r"tokenizer\.json' is not what .* in normalizer"):
        tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.lowercase
    folder = own_json(tmp_path / "b", vocabulary, OWN, lowercase=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary[::-1]), encoding="utf-8")
    with pytest.warns(UserWarning, match="hold different vocabularies"):
        Tokenizer.from_folder(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    tokenizer = Tokenizer.from_folder(own_json(tmp_path / "c", vocabulary, settings))
    with pytest.warns(UserWarning, match="both get segment 0"):
        assert not any(tokenizer.encode_batch([("a", "b")], 9)[0].type_ids)


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"do_lower_case": "false"}, "do_lower_case must be true or false. Received: 'false'"),
        ({"do_lower_case": None}, "do_lower_case must be true or false"),
        ({"strip_accents": 1.5}, "strip_accents must be true, false or null"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "Received: 'BertJapaneseTokenizer'"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type must be .* 'mecab'"),
        ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type must be"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize must be true"),
        ({"never_split": ["a"]}, "never_split must be"),
        ({"padding_side": "left"}, "padding_side must be .right"),
        ({"truncation_side": "both"}, "truncation_side must be"),
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map must be null"),
        ({"cls_token": "[BEGIN]"}, r"vocab\.txt' lacks \[BEGIN\]"),
        ({"cls_token": 5}, "cls_token: a token must be a string"),
        ({"pad_token": None}, "must name the pad_token"),
        ({"added_tokens_decoder": {"900": {"content": "[E1]"}}}, r"'\[E1\]' must have the id 900"),
        ({"added_tokens_decoder": ["a"]}, "added_tokens_decoder must map ids"),
        ({"additional_special_tokens": [5]}, "a token must be a string"),
    ],
)
def test_settings_that_are_not_supported_are_named(settings, problem, tmp_path, vocabulary):
    write_bert(tmp_path, vocabulary, {"do_lower_case": True, **settings})
    with pytest.raises(ValueError, match=problem):
        Tokenizer.from_folder(tmp_path)


def test_vocabularies_that_do_not_fit_are_named(tmp_path, vocabulary, merges):
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json.*It holds: nothing"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    two = {"AB": len(vocabulary), "Ab": len(vocabulary) + 1}
    write_bert(tmp_path / "a", vocabulary, OWN, added=two)
    with pytest.raises(ValueError, match="'AB' and 'Ab' are both 'ab' once normalized"):
        Tokenizer.from_folder(tmp_path / "a")
    write_bert(tmp_path / "b", vocabulary, OWN, added={"[E1]": len(vocabulary) + 3})
    with pytest.raises(ValueError, match=f"must have the id {len(vocabulary) + 3}"):
        Tokenizer.from_folder(tmp_path / "b")
    write_config(tmp_path / "c", "xlm-roberta")
    (tmp_path / "c" / "sentencepiece.bpe.model").write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"SentencePiece.*save_pretrained"):
        Tokenizer.from_folder(tmp_path / "c")
    (write_roberta(tmp_path / "d", merges) / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"merges\.txt' was not found"):
        Tokenizer.from_folder(tmp_path / "d")
    own_json(tmp_path / "e", vocabulary, {"tokenizer_class": "RobertaTokenizer"})
    with pytest.raises(ValueError, match=r"must hold a BPE vocabulary.*Received: WordPiece"):
        Tokenizer.from_folder(tmp_path / "e")
    (tmp_path / "e" / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"tokenizer\.json' is not JSON"):
        Tokenizer.from_folder(tmp_path / "e")


def test_capitals_without_a_word_about_case(tmp_path, vocabulary):
    write_bert(tmp_path, vocabulary)
    with pytest.warns(UserWarning, match=r"capitals.*--cased.*--uncased"):
        assert Tokenizer.from_folder(tmp_path).lowercase
    for lowercase in (True, False):
        tokenizer = Tokenizer.from_folder(tmp_path, lowercase=lowercase)
        tokenizer.save(tmp_path / "out")
        again = Tokenizer.from_folder(tmp_path / "out")
        assert again.lowercase == tokenizer.lowercase == lowercase
    small = [token for token in vocabulary if token == token.lower() or token[0] == "["]
    Tokenizer.from_folder(write_bert(tmp_path / "small", small))  # no warning


def test_lowercase_instead_of_the_folders(tmp_path, vocabulary, merges):
    write_bert(tmp_path / "a", vocabulary, OWN)
    tokenizer = Tokenizer.from_folder(tmp_path / "a", lowercase=False)
    tokenizer.save(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text()) == {
        **OWN,
        "do_lower_case": False,
    }
    ids = [t.encode_batch(TEXTS, 512) for t in (tokenizer, Tokenizer.from_folder(tmp_path / "b"))]
    assert [e.ids for e in ids[0]] == [e.ids for e in ids[1]]
    write_roberta(tmp_path / "c", merges)
    with pytest.raises(ValueError, match="`lowercase` can only be False for a RobertaTokenizer"):
        Tokenizer.from_folder(tmp_path / "c", lowercase=True)


def test_save_removes_the_files_of_another(tmp_path, vocabulary, merges):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path / "bert", vocabulary, OWN))
    write_roberta(tmp_path / "out", merges)
    tokenizer.save(tmp_path / "out")
    assert not (tmp_path / "out" / "merges.txt").exists()
    assert (tmp_path / "out" / "config.json").exists()
    # The files are those that were loaded, whatever became of the folder.
    content = (tmp_path / "bert" / "vocab.txt").read_bytes()
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]")
    tokenizer.save(tmp_path / "later")
    assert (tmp_path / "later" / "vocab.txt").read_bytes() == content


def test_files_must_match_their_checksums(tmp_path, vocabulary):
    write_bert(tmp_path, vocabulary, OWN)
    write_json(tmp_path / "checksums.json", {"tokenizer_config.json": "0" * 64})
    with pytest.raises(ValueError, match=r"tokenizer_config\.json' does not match its checksum"):
        Tokenizer.from_folder(tmp_path)


# Long texts.

PIECES = [
    *WORDS,
    *(" ", "  ", "\n", "\t", "a", "b", "x", "1", "9", ",", ".", "'", "[", "]", "[E1]", "ab]c"),
    *(
        "。",
        "，",
        "x。x",
        "。x",
        "今",
        "天",
        "天气，今",
        "'ll",
        "``",
        "''",
        "▁",
        "x" * 120,
        "今" * 40,
    ),
    *("\u0301", "\u0308", "\u0600", "\u0d4e", "\U000111c2", "\u200d", "\u200b", "\x07", "\ufeff"),
    *("\u00a8", "\u037a", "\u01c5", "\u0130", "\u3000", "\u00a0", "\ufdfa"),
]
LONG = {
    "bert": LEGACY["bert"],
    "han": LEGACY["han"],
    "added": lambda f, v, m: write_bert(
        f, v, OWN, added={t: len(v) + i for i, t in enumerate(("[E1]", "ab]c", "。x", "é["))}
    ),
    "word": LEGACY["decoder"],
    "spaces": LEGACY["added"],
    "left": LEGACY["left"],
    "roberta": LEGACY["roberta"],
    "xlm-roberta": lambda f, v, m: write_unigrams(f, "xlm-roberta", ROBERTA),
    "albert": lambda f, v, m: write_unigrams(f, "albert", ALBERT),
    "deberta": lambda f, v, m: write_unigrams(f, "deberta-v2", DEBERTA),
}


def hostile(rng, length):
    pieces = rng.choice(
        [PIECES, [p for p in PIECES if not any(map(str.isspace, p))], rng.sample(PIECES, 5)]
    )
    space, text = rng.choice([0, 0.5]), ""
    while len(text) < length:
        text += rng.choice(pieces) + " " * (rng.random() < space)
    return text


# The library's own files for ALBERT and its like, which `transformers` reads otherwise.
@pytest.mark.filterwarnings("ignore:.*(is not what|with capitals|both get segment 0):UserWarning")
@pytest.mark.parametrize("name", some(LONG, ["han", "word", "spaces", "albert"]))
def test_a_long_text_has_the_tokens_that_it_has_uncut(name, tmp_path, vocabulary, merges):
    tokenizer = Tokenizer.from_folder(LONG[name](tmp_path, vocabulary, merges))
    whole = tokenizers.Tokenizer.from_str(tokenizer._tokenizer.to_str())
    rng, direction, cut = random.Random(1), "left" if name == "left" else "right", 0
    for number in range(60):
        length = rng.choice([8, 9, 12, 23, 40])
        strategy = rng.choice(["longest_first", "only_second"])
        if number % 3:
            text, strategy = hostile(rng, rng.randint(300, 3000)), "longest_first"
        else:
            # The library takes much memory for two long texts.
            text = tuple(hostile(rng, rng.choice([5, 60, 300])) for _ in range(2))
        whole.enable_truncation(length, strategy=strategy, direction=direction)
        try:
            expected = whole.encode_batch([text])[0]
        except Exception:
            with pytest.raises(ValueError, match="must leave room for the second text"):
                tokenizer.encode_batch([text], length, strategy)
            continue
        found = tokenizer.encode_batch([text], length, strategy)[0]
        for item in ("ids", "type_ids", "offsets", "special_tokens_mask", "sequence_ids"):
            assert getattr(found, item) == getattr(expected, item), (text, length, strategy)
        assert bool(found.overflowing) == bool(expected.overflowing)
        cut += bool(found.overflowing)
    assert cut > 30


@pytest.mark.parametrize(
    "text", [" ".join(["word"] * 10_000_000), "今天天气不错，" * 2_000_000], ids=["words", "han"]
)
def test_a_line_of_50_mb_takes_little(text, tmp_path, vocabulary):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, OWN))
    expected = tokenizer.encode_batch([text[:9000]], 512)[0].ids
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert tokenizer.encode_batch([text], 512)[0].ids == expected
    assert tokenizer.encode_batch([("a", text)], 512)[0].ids[3:-1] == expected[1:509]
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # in KiB


def test_texts_that_cannot_be_cut_are_named(tmp_path, vocabulary, merges):
    tokenizer = Tokenizer.from_folder(write_roberta(tmp_path, merges))
    with pytest.raises(ValueError, match="Example 1: a text must have 1,000,000 characters at"):
        tokenizer.encode_batch(["a", " " * (MOST_CHARACTERS + 1)], 8)
    with pytest.raises(ValueError, match="Example 0: a text must have 1,000,000 characters"):
        tokenizer.encode_words([["a", "b" * (MOST_CHARACTERS + 1)]], 8)
    long = ["word"] * 300_000
    assert tokenizer.encode_words([long], 8).cut.tolist() == [True]
    assert not tokenizer.encode_words([long[:2]], 8).cut.any()


def test_texts_that_are_no_text_are_named(tmp_path, vocabulary):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, OWN))
    with pytest.raises(ValueError, match=r"Example 2: .*half of an emoji.*character 1"):
        tokenizer.encode([Example(text, 0) for text in ("a", "b", "c\ud83d")], 8)
    with pytest.raises(ValueError, match=r"Example 1: .*half of an emoji"):
        tokenizer.encode([Pair("a", "b", 0), Pair("a", "\ude00", 0)], 8)
    with pytest.raises(ValueError, match=r"Example 0: .*half of an emoji"):
        tokenizer.encode_words([["a", "\ude00"]], 8)
    with pytest.raises(TypeError, match=r"Example 1: a text must be a string\. Received: 5"):
        tokenizer.encode_batch(["a", 5], 8)


@pytest.mark.parametrize("length", [-1, 0, 1, 2])
def test_max_length_leaves_room(length, tmp_path, vocabulary):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, OWN))
    for encode in (tokenizer.encode, tokenizer.encode_with_offsets):
        with pytest.raises(ValueError, match="`max_length` must be at least 3: 2 special tokens"):
            encode([Example("a", 0)], length)
        with pytest.raises(ValueError, match="`max_length` must be at least 5: 3 special tokens"):
            encode([Pair("a", "b", 0)], length + 2)
    with pytest.raises(ValueError, match="`max_length` must be at least 3"):
        tokenizer.encode_words([["a"]], length)


# Offsets.


@pytest.mark.filterwarnings("ignore:.*(is not what|with capitals|both get segment 0):UserWarning")
@pytest.mark.parametrize("name", ["bert", "roberta", "prefix", "xlm-roberta", "albert", "deberta"])
def test_offsets_are_characters_of_the_text(name, tmp_path, vocabulary, merges):
    tokenizer = Tokenizer.from_folder({**LEGACY, **LONG}[name](tmp_path, vocabulary, merges))
    text = "The  good film 😀, wasn't it? Straße 今天"
    for examples in ([Example(text, 0)], [Pair("What was it?", text, 0)]):
        encoded = tokenizer.encode_with_offsets(examples, 128)
        spans = [(a, b) for a, b in encoded.offsets[0].tolist() if a < b]
        assert not encoded.cut.any()
        covered = [any(a <= place < b for a, b in spans) for place in range(len(text))]
        assert covered == [not character.isspace() for character in text]
        assert not any(text[a].isspace() or text[b - 1].isspace() for a, b in spans)
        assert all(a <= c and b <= d for (a, b), (c, d) in zip(spans, spans[1:]))
        words = {text[a:b] for a, b in spans}
        assert {"今", "天"} <= words or name in ("xlm-roberta", "albert", "deberta")


def test_offsets_need_the_beginning_of_a_text(tmp_path, vocabulary):
    settings = {**OWN, "truncation_side": "left"}
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, settings))
    with pytest.raises(ValueError, match=r"truncation_side .* must be 'right'"):
        tokenizer.encode_with_offsets([Example("a", 0)], 8)


# With a model.


def test_a_tokenizer_fits_a_model(tmp_path, vocabulary, merges):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path / "a", vocabulary, OWN))
    size = tokenizer.vocab_size
    check_tokenizer(tokenizer, {"vocab_size": size + 100, "type_vocab_size": 2}, pairs=True)
    with pytest.raises(ValueError, match=f"has {size} tokens and the model has {size - 1} embedd"):
        check_tokenizer(tokenizer, {"vocab_size": size - 1})
    with pytest.warns(UserWarning, match=f"has {size} tokens and the model has {size + 500} embed"):
        check_tokenizer(tokenizer, {"vocab_size": size + 500})
    with pytest.raises(ValueError, match="The model has one segment"):
        check_tokenizer(tokenizer, {"vocab_size": size, "type_vocab_size": 1}, pairs=True)
    check_tokenizer(tokenizer, {"vocab_size": size, "type_vocab_size": 1})
    tokenizer = Tokenizer.from_folder(write_roberta(tmp_path / "b", merges))
    config = {"vocab_size": tokenizer.vocab_size, "type_vocab_size": 1, "position_offset": 2}
    check_tokenizer(tokenizer, {**config, "pad_token_id": 1}, pairs=True)
    with pytest.raises(ValueError, match=r"Padding is token 1 in .* and 0 for the model"):
        check_tokenizer(tokenizer, {**config, "pad_token_id": 0})


def test_added_tokens_count(tmp_path, vocabulary):
    count = len(vocabulary)
    special = {"additional_special_tokens": ["[E1]", "[URL]"]}
    numbers = {"[E1]": count, "[URL]": count + 1}
    write_bert(tmp_path, vocabulary, {**OWN, **special}, added=numbers)
    tokenizer = Tokenizer(tmp_path / "vocab.txt")
    assert tokenizer.vocab_size == count + 2
    ids = tokenizer.encode([Example("[E1] the [URL]", 0)], 9).token_ids[0].tolist()
    assert [ids[1], ids[-2]] == [count, count + 1]


HOSTILE = [None, True, 5, -1, 1e400, "x", "\ud83d", [], {}, [5], {"a": 5}, [{}], {"content": "z"}]
KEYS = ["extra_special_tokens", "model_input_names", "unk_id", "added_tokens_decoder", "user_token"]
KEYS += ["additional_special_tokens", "mask_token", "truncation_side", "tokenizer_class"]


def damage(rng, content):
    """JSON in which one value is another."""
    if content and isinstance(content, (dict, list)) and rng.random() < 0.8:
        key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
        changed = content.copy()
        changed[key] = damage(rng, content[key])
        return changed
    return copy.deepcopy(rng.choice(HOSTILE))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_are_named(count, tmp_path, vocabulary, merges):
    rng, refused = random.Random(count), 0
    folders = [LEGACY[n](tmp_path / n, vocabulary, merges) for n in ("decoder", "map", "roberta")]
    folders += [LONG[n](tmp_path / n, vocabulary, merges) for n in ("albert", "deberta")]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    folders += [own_json(tmp_path / "own", vocabulary, settings)]
    for number in range(count):
        folder = tmp_path / f"work{number}"
        shutil.copytree(rng.choice(folders), folder)
        path = rng.choice(sorted(folder.iterdir()))
        if path.suffix == ".json" and rng.random() < 0.7:
            content = damage(rng, json.loads(path.read_text(encoding="utf-8")))
            if isinstance(content, dict) and rng.random() < 0.3:
                content[rng.choice(KEYS)] = copy.deepcopy(rng.choice(HOSTILE))
            path.write_text(json.dumps(content))
        else:
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            tokenizer = Tokenizer.from_folder(folder)
            tokenizer.encode_batch(["a film", ("a", "b")], 9)
            tokenizer.save(tmp_path / "out")
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error), error
            refused += 1
        shutil.rmtree(folder)
    assert refused > count / 2


def test_threads_share_a_tokenizer(tmp_path, vocabulary):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, OWN))
    texts = [*TEXTS, *PAIRS]
    expected = {n: [e.ids for e in tokenizer.encode_batch(texts, n)] for n in (8, 9, 17, 64)}

    def work(number):
        length = (8, 9, 17, 64)[number % 4]
        return expected[length] == [e.ids for e in tokenizer.encode_batch(texts, length)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_tokenizers_load_without_keras(tmp_path, vocabulary):
    write_bert(tmp_path, vocabulary, OWN)
    code = f"""
import sys
from bert_of_theseus.data import Tokenizer
Tokenizer.from_folder({str(tmp_path)!r}).encode_batch(["a"], 9)
print(sorted({{"keras", "tensorflow", "torch", "transformers"}} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_encoded_arrays(tmp_path, vocabulary):
    tokenizer = Tokenizer.from_folder(write_bert(tmp_path, vocabulary, OWN))
    encoded = tokenizer.encode([Example("the film", 1), Pair("a", "b", 0)], 9)
    assert all(ids.dtype == np.int32 for ids in encoded.token_ids + encoded.segment_ids)
    assert encoded.segment_ids[1].tolist() == [0, 0, 0, 1, 1]
    assert not encoded.segment_ids[0].any()
