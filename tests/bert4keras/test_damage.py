"""Truncated, corrupted and mismatched files: a clear error, and never a half-loaded model.

What is drawn here goes through `load_pretrained`, all of it or an error; what becomes of a model
that weights are loaded into is in test_export.py and test_checkpoints.py.
"""

import shutil
import zipfile
from pathlib import Path

import bert_of_theseus.bert4keras  # noqa: F401  must come before bert4keras

# isort: split
import numpy as np
import pytest
import tensorflow as tf
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_of_theseus.checkpoints import (
    check_vocab,
    find_checkpoint,
    load_pretrained,
    save_checkpoint,
    save_pretrained,
)
from bert_of_theseus.heads import classification_head

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 12,
}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "天", *map(str, range(34))]
SAVE = {"google": save_checkpoint, "huggingface": save_pretrained}
WAYS = 25
PROPERTY = settings(
    max_examples=WAYS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each kind, with a head beside, and what is loaded from it."""
    bert = build_transformer_model(return_keras_model=False, **TINY)
    head = classification_head(16, 3)
    rng = np.random.default_rng(0)
    for model in (bert.model, head):
        model.set_weights([w + rng.normal(0, 0.2, w.shape) for w in model.get_weights()])
    folders = {}
    for kind, save in SAVE.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        with pytest.warns(UserWarning, match="head.keras"):
            save(folders[kind], bert, head, vocab=VOCAB, labels=["a", "b", "c"])
    return folders


def loaded(folder):
    """All that a folder holds, as bytes."""
    transformer, classifier, labels = load_pretrained(folder)
    vocab = find_checkpoint(folder).vocab_path.read_bytes()
    weights = transformer.model.get_weights() + classifier.get_weights()
    return [w.tobytes() for w in weights], labels, vocab


FILES = [
    ("google", "bert_config.json"),
    ("google", "bert_model.ckpt.index"),
    ("google", "bert_model.ckpt.data-00000-of-00001"),
    ("google", "vocab.txt"),
    ("google", "head.keras"),
    ("huggingface", "config.json"),
    ("huggingface", "model.safetensors"),
    ("huggingface", "vocab.txt"),
    ("huggingface", "checksums.json"),
    ("huggingface", "head.keras"),
]


@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
@pytest.mark.parametrize("kind, file", FILES)
def test_damage(kind, file, damage, saved, tmp_path_factory):
    """Errors that name the folder; what loads after all is what was saved."""
    content = (saved[kind] / file).read_bytes()
    expected, tried, refused = loaded(saved[kind]), set(), []

    @PROPERTY
    @given(place=st.integers(0, len(content) - 1), bit=st.integers(0, 7))
    def check(place, bit):
        tried.add((place, bit))
        folder = tmp_path_factory.mktemp("damaged")
        shutil.copytree(saved[kind], folder, dirs_exist_ok=True)
        changed = bytearray(content[:place] if damage == "truncated" else content)
        if damage == "corrupted":
            changed[place] ^= 1 << bit
        (folder / file).write_bytes(changed)
        try:
            found = loaded(folder)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)
            refused.append(place)
            return
        # Another letter in a class's name is a name too, and a config may lose its newline.
        assert found[0] == expected[0] and found[2] == expected[2]

    check()
    assert len(tried) >= 20
    if file != "bert_config.json" and file != "config.json":
        assert len(refused) > WAYS // 2


# Files that are whole, but do not belong together.


@pytest.mark.parametrize("kind", SAVE)
def test_mismatched_vocabularies(kind, saved, tmp_path_factory):
    """A checksum finds any other vocabulary; without one, what cannot be this model's is found."""

    @PROPERTY
    @given(
        case=st.one_of(
            st.tuples(st.just("more"), st.integers(1, 40)),
            st.tuples(st.just("twice"), st.integers(0, 39), st.integers(0, 39)),
            st.tuples(st.just("[PAD] moved"), st.integers(1, 39)),
        ),
        checksum=st.booleans(),
    )
    def check(case, checksum):
        folder = tmp_path_factory.mktemp("mismatched")
        shutil.copytree(saved[kind], folder, dirs_exist_ok=True)
        tokens = list(VOCAB)
        if case[0] == "more":
            tokens += [f"new{n}" for n in range(case[1])]
        elif case[0] == "twice":
            tokens[case[1]] = tokens[case[2]]
        else:
            tokens.insert(case[1], tokens.pop(0))
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        if not checksum:
            (folder / "checksums.json").unlink()
        if tokens == VOCAB:
            load_pretrained(folder)
            return
        with pytest.raises(ValueError, match=r"vocab\.txt"):
            load_pretrained(folder)

    check()


def test_a_vocabulary_that_was_changed_on_purpose(saved, tmp_path):
    folder = shutil.copytree(saved["huggingface"], tmp_path / "a")
    text = (folder / "vocab.txt").read_text(encoding="utf-8").replace("天", "地")
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt' does not match.*line in checksums\.json"):
        load_pretrained(folder)
    path = folder / "checksums.json"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if '"vocab.txt"' not in x), encoding="utf-8")
    load_pretrained(folder)
    assert check_vocab(folder / "vocab.txt", {"vocab_size": 40}) == 40
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"checksums\.json.* is not JSON"):
        load_pretrained(folder)


def test_mismatched_tensors_of_google_checkpoints(saved, tmp_path):
    folder = shutil.copytree(saved["google"], tmp_path / "a")
    (folder / "checksums.json").unlink()
    prefix = str(folder / "bert_model.ckpt")
    reader = tf.train.load_checkpoint(prefix)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    del reader
    cases = []
    for name in sorted(tensors)[:: len(tensors) // 6]:
        value = tensors[name]
        cases += [
            {k: v for k, v in tensors.items() if k != name},
            {**tensors, name: np.concatenate([value, value])},
            {**tensors, name: np.zeros((), "float32")},
            {**tensors, name: value.astype("int32")},
            {**tensors, name: value[:0]},
            {**tensors, name: np.full_like(value, np.nan)},
        ]
    adapter = "bert/encoder/layer_0/adapter/kernel"
    cases += [{**tensors, adapter: np.ones((2, 2), "float32")}, {"a": np.zeros(1, "float32")}]
    assert len(cases) > 30
    for case in cases:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(case),
            shape_and_slices=[""] * len(case),
            tensors=[tf.constant(value) for value in case.values()],
        )
        with pytest.raises(ValueError, match=str(folder)):
            load_pretrained(folder)


def several(*ends):
    """A head with several inputs or outputs."""
    inputs = [keras.Input((None, 16)) for _ in range(ends[0])]
    x = keras.layers.Add()(inputs) if len(inputs) > 1 else inputs[0]
    outputs = [keras.layers.Dense(3)(x) for _ in range(ends[1])]
    return keras.Model(inputs, outputs)


def image_head():
    return keras.Sequential([keras.Input((4, 4, 16)), keras.layers.Dense(3)])


def test_mismatched_heads(saved, tmp_path):
    """Heads of other models, and members of the file that do not belong together."""
    folder = shutil.copytree(saved["huggingface"], tmp_path / "a")
    (folder / "checksums.json").unlink()
    path = folder / "head.keras"
    heads = [classification_head(size, 3) for size in (1, 8, 15, 17, 32)]
    heads += [classification_head(16, n) for n in (1, 2, 4, 119)]
    heads += [several(2, 1), several(1, 2), several(2, 2), image_head()]
    for head in heads:
        head.save(path)
        with pytest.raises(ValueError, match=str(folder)):
            load_pretrained(folder)

    with zipfile.ZipFile(saved["huggingface"] / "head.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    heads[3].save(tmp_path / "other.keras")
    with zipfile.ZipFile(tmp_path / "other.keras") as archive:
        others = {name: archive.read(name) for name in archive.namelist()}
    changes = [{name: content} for name in ("config.json", "model.weights.h5")
               for content in (None, b"", b"{}", b"[]", others[name])]  # fmt: skip
    for change in changes:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**members, **change}.items():
                if content is not None:
                    archive.writestr(name, content)
        with pytest.raises(ValueError, match=str(folder)):
            load_pretrained(folder)
    assert len(heads) + len(changes) >= 20


def test_files_of_other_kinds(saved, tmp_path):
    """Each file in the place of each other one."""
    files = sorted(path.name for path in saved["huggingface"].iterdir())
    assert len(files) == 6
    for target in files:
        for source in files:
            if source == target:
                continue
            folder = tmp_path / f"{source}-as-{target}"
            shutil.copytree(saved["huggingface"], folder)
            shutil.copy(folder / source, folder / target)
            with pytest.raises((ValueError, OSError), match=str(Path(folder).name)):
                load_pretrained(folder)
