"""Tags of words fall on the same tokens as in the examples of `transformers`."""

import numpy as np
import pytest
import tiny_transformers

from bert_of_theseus.data import NO_LABEL, Example, TokenClassification, Tokenizer, Words

LETTERS = [*tiny_transformers.LETTERS, "é", "中", "\u200b", "."]
RNG = np.random.default_rng(0)


def words():
    lengths = RNG.integers(1, 4, RNG.integers(1, 14))
    return tuple("".join(RNG.choice(LETTERS, length)) for length in lengths)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "albert", "deberta-v2"])
def test_tags_of_words(family, tmp_path):
    """As `tokenize_and_align_labels` of run_ner.py has it, with max_length and truncation."""
    theirs = tiny_transformers.make_tokenizer(family)
    theirs.save_pretrained(tmp_path)
    task, ours = TokenClassification(tiny_transformers.TAGS), Tokenizer.from_folder(tmp_path)
    examples = [Words(text, tuple(RNG.integers(0, 3, len(text)).tolist())) for text in
                (words() for _ in range(60))]  # fmt: skip
    encoded = task.encode(examples, ours, 12)
    for example, ids, tags in zip(examples, encoded.token_ids, encoded.labels):
        expected = theirs(
            list(example.words), is_split_into_words=True, truncation=True, max_length=12
        )
        aligned, before = [], None
        for word in expected.word_ids():
            is_first = word is not None and word != before
            aligned.append(example.label[word] if is_first else NO_LABEL)
            before = word
        assert ids.tolist() == expected["input_ids"]
        assert tags.tolist() == aligned


def test_tags_of_characters_are_those_of_the_words_they_make(tmp_path):
    theirs = tiny_transformers.make_tokenizer("bert")
    theirs.save_pretrained(tmp_path)
    task, tokenizer = TokenClassification(tiny_transformers.TAGS), Tokenizer.from_folder(tmp_path)
    for _ in range(40):
        text = ["".join(RNG.choice(list("abcde"), RNG.integers(1, 4))) for _ in range(6)]
        tags = RNG.integers(0, 3, 6).tolist()
        spread = [tag for word, tag in zip(text, tags) for tag in [tag] * len(word) + [0]][:-1]
        one, other = (
            task.encode([example], tokenizer, 16).labels[0].tolist()
            for example in (Words(tuple(text), tags), Example(" ".join(text), spread))
        )
        assert one == other
