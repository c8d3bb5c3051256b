"""Tiny tokenizers of each kind, in folders as `transformers` writes them."""

import json
import random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

WORDS = [
    "a",
    "film",
    "the",
    "good",
    "bad",
    "not",
    "very",
    "it",
    "is",
    "was",
    "who",
    "likes",
    "paris",
    "café",
    "cafe",
    "naïve",
    "möchte",
    "öl",
    "straße",
    "you",
    "they're",
    "we'll",
    "don't",
    "it's",
    "New",
    "York",
    "newyork",
    "U.S.",
    "3.14",
    "2024",
    "one-two",
    "e-mail",
    "x",
    "y",
    "z",
    "hello",
    "world",
    "Hello",
    "WORLD",
    "Anna",
    "今天",
    "天气",
    "不错",
    "打车",
    "北京",
    "東京",
    "한국",
    "영화",
    "здравствуй",
    "мир",
    "שלום",
    "مرحبا",
    "ελλάς",
    "ΟΔΟΣ",
    "ﬁne",
    "ﾊﾟ",
    "naïveté",
    "Å",
    "resume",
    "résumé",
    "ＡＢＣ",
    "😀",
    "👩\u200d👩\u200d👧",
    "[MASK]",
    "<mask>",
    "##",
    "##a",
    "▁",
    "under_score",
    "http://a.b/c?d=e&f=g",
]
TEXTS = [
    "",
    " ",
    "\n\t",
    "A film",
    "  two  spaces and a tab\t. ",
    "Café NAÏVE möchte Öl, straße STRASSE",
    "cafe\u0301 a\u0308\u0323 \u0301x",
    "今天天气不错，打车去北京！",
    "東京 and 한국 영화",
    "I 😀 you 👩\u200d👩\u200d👧 and 👍🏽",
    "[CLS] a [SEP] b [MASK] [PAD] [UNK] <s> </s> <mask> <pad> <unk>",
    "a [E1] b[URL]c [e1] New York newyork",
    "they're we'll DON'T it's 's ''quoted'' ``so``",
    "control \x00 \x07 \u200b \ufeff \u00ad \ufffd characters",
    "nbsp\u00a0here \u3000wide\u2028line\u0085next",
    "ﬁne ＡＢＣ ﾊﾟ ½ ² Ⅷ ™ \u1e9b\u0323",
    "ΟΔΟΣ ΕΛΛΆΣ ǅ İstanbul ß ẞ",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "a" * 300,
    "א\u05b8 שלום مرحبا हिन्दी ไทย",
    "http://a.b/c?d=e&f=g under_score one-two 3.14 U.S. #tag @me $5 100%",
    "▁ ▁a a▁b ##a Ġ Ċ",
    "!?.,;:-–—…«»“”‘’",
    "\U0001f1eb\U0001f1f7 \U00020000 \U0001d49c \u0e33",
    "the good film is not very bad and it was who likes paris " * 6,
]
PAIRS = [
    ("a good film", "a bad film"),
    ("", ""),
    ("", "the film"),
    ("the film", ""),
    ("the good film " * 9, "not bad"),
    ("not bad", "the good film " * 9),
    ("the good film " * 9, "paris is very good " * 8),
    ("今天天气不错" * 5, "打车 Café 😀" * 5),
    ("a " * 10, "a " * 10),
]


def corpus():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=12)) for _ in range(400)]


def word_piece():
    """A vocabulary of BERT's, in small letters and in capitals."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, limit_alphabet=150
    )
    texts = corpus()
    tokenizer.train_from_iterator([*texts, *map(str.lower, texts)], trainer)
    return tokenizer.get_vocab()


def byte_pairs():
    """Vocabulary and merges of RoBERTa's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def unigrams(special):
    """Tokens with their scores, `special` ones first."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, show_progress=False, unk_token="<unk>")
    texts = corpus()
    tokenizer.train_from_iterator([*texts, *map(str.lower, texts)], trainer)
    tokens = json.loads(tokenizer.to_str())["model"]["vocab"]
    tokens = [(token, score) for token, score in tokens if token not in (*special, "<unk>")]
    return [(token, 0.0) for token in special] + tokens


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_config(folder, model_type, **other):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": model_type, **other})
    return folder
