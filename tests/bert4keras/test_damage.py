"""Truncated, corrupted and mismatched files: a clear error, and never a half-loaded model.

Damage is tried where files are read: `read` does what `load_pretrained` does before and after it
builds an encoder, and `load_into` what it does with the encoder's weights. Two whole loads of each
kind of file show that the errors are those of `load_pretrained`.
"""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import bert_helpers
import numpy as np
import pytest
import tensorflow as tf
from bert4keras.backend import keras
from bert_helpers import (
    LABELS,
    MAIN_FILES,
    SAVE,
    VOCAB,
    load_into,
    make_bert,
    same,
    scatter,
    weights_of,
)
from damage import FEW_OR_MANY, damage_property, damaged, damages
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bert_of_theseus.checkpoints import (
    check_vocab,
    find_checkpoint,
    load_bert,
    load_pretrained,
    load_weights,
)
from bert_of_theseus.checkpoints.heads import load_head
from bert_of_theseus.files import read_json
from bert_of_theseus.heads import classification_head, pooler_classification_head


@pytest.fixture(scope="module")
def bert():
    return make_bert(1)


@pytest.fixture(scope="module")
def target():
    """A model that failing loads must leave as it is."""
    return make_bert(1, seed=1)


@pytest.fixture(scope="module")
def saved(bert, tmp_path_factory):
    """Folders of each kind, with a head of BERT's own, and with another in a file beside."""
    folders = {}
    for kind, save in SAVE.items():
        for where, head in (
            ("", pooler_classification_head(16, 3)),
            ("+head.keras", classification_head(16, 3)),
        ):
            folders[kind + where] = tmp_path_factory.mktemp(kind)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # others do not know the second
                save(folders[kind + where], bert, scatter(head), vocab=VOCAB, labels=LABELS)
    return folders


def unlisted(saved, folder):
    """A copy without checksums, as others write: what is wrong is found by what reads it."""
    return shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("checksums.json"))


def read(folder):
    """All that `load_pretrained` reads: config, tensors, head, labels, vocabulary."""
    checkpoint = find_checkpoint(folder)
    classifier, labels = load_head(checkpoint)
    check_vocab(checkpoint.vocab_path, checkpoint.config)
    return {
        "config": checkpoint.config,
        "tensors": {name: checkpoint.tensor(name).tobytes() for name in checkpoint.names},
        "head": classifier and [weight.tobytes() for weight in classifier.get_weights()],
        "labels": labels,
        "vocab": checkpoint.vocab_path.read_bytes(),
    }


FILES = [
    *[(kind, file) for kind in SAVE for file in [*MAIN_FILES[kind], "vocab.txt"]],
    ("google+head.keras", "head.keras"),
    ("huggingface+head.keras", "head.keras"),
    *[(kind, "checksums.json") for kind in SAVE],
]
CONFIGS = ("bert_config.json", "config.json")


@pytest.mark.parametrize("count", FEW_OR_MANY)
@pytest.mark.parametrize("kind, file", FILES)
def test_random_damage(kind, file, count, bert, target, saved, tmp_path_factory):
    """Errors that name the folder; what is read after all is what was saved."""
    content = (saved[kind] / file).read_bytes()
    expected, tried, refused = read(saved[kind]), set(), set()

    @damage_property(count)
    @given(damage=damages(content, ("cut", "flip")))
    def check(damage):
        how, changed = damage
        tried.add(changed)
        folder = tmp_path_factory.mktemp("damaged")
        shutil.copytree(saved[kind], folder, dirs_exist_ok=True)
        (folder / file).write_bytes(changed)
        try:
            found = read(folder)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)
            found = None
            refused.add(changed)
        # Weights are there whole, or untouched: of what stands beside them they need nothing.
        loads = load_into(target, folder, weights_of(bert.model))
        if found is None:
            return
        # All but the newline after a config, and what a zip file says of no member's content.
        assert how == "flip" or file == "head.keras" or changed.endswith(b"}")
        if file not in CONFIGS:
            assert loads and found == expected
        elif loads and found["config"] == expected["config"]:
            # Another letter in a class's name is a name too, and another architecture's is one
            # without this head.
            assert found["head"] in (expected["head"], None)
            assert (found["tensors"], found["vocab"]) == (expected["tensors"], expected["vocab"])
        else:  # a model of other sizes, whose tensors these are not; or of another dropout
            try:
                transformer, classifier, _ = load_pretrained(folder)
            except (ValueError, OSError) as error:
                assert str(folder) in str(error)
            else:
                assert same(weights_of(transformer.model), weights_of(bert.model))
                head = classifier and [w.tobytes() for w in classifier.get_weights()]
                assert head in (expected["head"], None)

    check()
    assert len(tried) >= count // 2
    if file not in CONFIGS:
        assert len(refused) > count // 3


@pytest.mark.parametrize("kind, file", FILES)
def test_whole_loads(kind, file, saved, tmp_path):
    """Two of each kind of file: the errors are `load_pretrained`'s, which gives back no model."""
    content = (saved[kind] / file).read_bytes()
    for number, changed in enumerate((
        damaged(content, "cut", len(content) // 2),
        damaged(content, "zero", len(content) // 2),
    )):  # fmt: skip
        folder = shutil.copytree(saved[kind], tmp_path / str(number))
        (folder / file).write_bytes(changed)
        with pytest.raises((ValueError, OSError)) as caught:
            load_pretrained(folder)
        assert str(folder) in str(caught.value)


def test_one_flipped_bit_in_a_tensor(saved, target, bert, tmp_path):
    folder = shutil.copytree(saved["huggingface"], tmp_path / "a")
    path = folder / "model.safetensors"
    name = "bert.encoder.layer.0.output.dense.weight"
    content, tensors = path.read_bytes(), load_file(path)
    path.write_bytes(damaged(content, "flip", content.index(tensors[name].tobytes()) + 5))
    assert not load_into(target, folder, weights_of(bert.model))
    with pytest.raises(ValueError, match=r"model\.safetensors' does not match its checksum"):
        load_bert(folder)
    # Others' files have no checksums, and load.
    (folder / "checksums.json").unlink()
    save_file(tensors, path)
    assert load_into(target, folder, weights_of(bert.model))


# Files that are whole, but do not belong together.


@pytest.mark.parametrize("count", FEW_OR_MANY)
@pytest.mark.parametrize("kind", SAVE)
def test_mismatched_vocabularies(kind, count, saved, tmp_path_factory):
    """A checksum finds any other vocabulary; without one, what cannot be this model's is found."""
    config = find_checkpoint(saved[kind]).config

    @damage_property(count)
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
        tokens = list(VOCAB)
        if case[0] == "more":
            tokens += [f"new{n}" for n in range(case[1])]
        elif case[0] == "twice":
            tokens[case[1]] = tokens[case[2]]
        else:
            tokens.insert(case[1], tokens.pop(0))
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        if checksum:
            for name in ("checksums.json", "tokenizer_config.json"):
                shutil.copy(saved[kind] / name, folder)
        if tokens == VOCAB:
            assert check_vocab(folder / "vocab.txt", config) == len(VOCAB)
            return
        with pytest.raises(ValueError, match=r"vocab\.txt"):
            check_vocab(folder / "vocab.txt", config)

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


CHANGED_CONFIGS = [
    *[{"num_hidden_layers": n} for n in (0, 2, 3, 12, -2, 1.0, "1", None, True)],
    *[{"vocab_size": n} for n in (0, 39, 41, "40", None)],
    *[{"hidden_size": n} for n in (8, 17, 32, None)],
    *[{"intermediate_size": n} for n in (16, 25)],
    *[{"num_attention_heads": n} for n in (3, 32)],
    *[{"max_position_embeddings": n} for n in (11, 13)],
    {"type_vocab_size": 3},
    {"model_type": "gpt2"},
    {"hidden_act": "no"},
    {"id2label": ["a"]},
    {"id2label": {"0": "a"}},
    {"id2label": {"1": "a", "2": "b", "3": "c"}},
    {"id2label": {"0": "a", "1": "b", "2": 3}},
    {"classifier_activation": "relu"},
    {"classifier_dropout": 2},
]


@pytest.mark.filterwarnings("ignore:.*the other rows are not used")  # of a vocabulary
@pytest.mark.parametrize("step", [
    pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)
])  # fmt: skip
@pytest.mark.parametrize("kind", SAVE)
def test_configs_that_do_not_fit(kind, step, saved, tmp_path):
    folder = unlisted(saved[kind], tmp_path / "a")
    path = folder / MAIN_FILES[kind][0]
    config = read_json(path)
    others = []
    for change in CHANGED_CONFIGS:
        path.write_text(json.dumps({**config, **change}))
        try:
            load_head(find_checkpoint(folder))
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)
        else:
            others.append(change)
    # What is left describes a model of other sizes; the shapes of its weights tell.
    assert len(others) < 15 and all(isinstance(n, int) for c in others for n in c.values())
    for change in others[::step]:
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError) as caught:
            load_pretrained(folder)
        assert str(folder) in str(caught.value)


def changed_tensors(tensors):
    """Ways in which a file's tensors can be wrong: a name, and all tensors."""
    some = sorted(tensors)[:: len(tensors) // 6]
    for name in some:
        value = tensors[name]
        yield f"no {name}", {k: v for k, v in tensors.items() if k != name}
        yield f"longer {name}", {**tensors, name: np.concatenate([value, value])}
        yield f"scalar {name}", {**tensors, name: np.zeros((), "float32")}
        yield f"integer {name}", {**tensors, name: value.astype("int32")}
        yield f"empty {name}", {**tensors, name: value[:0]}
        yield f"NaN {name}", {**tensors, name: np.full_like(value, np.nan)}
    # Both kinds' names of a layer and of an adapter; in a file of the other kind, both are wrong.
    deeper = {
        k.replace("layer.0.", "layer.1.").replace("layer_0/", "layer_1/"): v
        for k, v in tensors.items()
    }
    yield "a second layer", {**tensors, **deeper}
    for name in ("bert.encoder.layer.0.adapter.weight", "bert/encoder/layer_0/adapter/kernel"):
        yield f"more {name}", {**tensors, name: np.ones((2, 2), "float32")}
    yield "nothing", {"a": np.zeros(1, "float32")}


def write_tensors(folder, kind, tensors):
    if kind == "huggingface":
        save_file(tensors, folder / "model.safetensors")
        return
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def read_tensors(folder, kind):
    if kind == "huggingface":
        return load_file(folder / "model.safetensors")
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("kind", SAVE)
def test_tensors_that_do_not_fit(kind, saved, bert, target, tmp_path):
    folder = unlisted(saved[kind], tmp_path / "a")
    cases = dict(changed_tensors(read_tensors(folder, kind)))
    assert len(cases) > 30
    foreign = {"huggingface": "/", "google": "."}[kind]
    for name, case in cases.items():
        write_tensors(folder, kind, case)
        tensor = name.split()[-1]
        if tensor.startswith(("classifier", "output_", "bert.pooler", "bert/pooler")):
            if name.startswith("integer"):
                continue  # whole numbers are numbers, too
            with pytest.raises(ValueError) as caught:  # not read by `load_weights`
                load_head(find_checkpoint(folder))
            assert str(folder) in str(caught.value), name
        elif name.startswith("more") and foreign in tensor:
            continue  # no tensor of the encoder in a file of this kind
        else:
            assert not load_into(target, folder, weights_of(bert.model)), name
    # The last case, which is one of `load_pretrained`'s too.
    with pytest.raises(ValueError) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)


# Heads.


def several(*ends):
    """A head with several inputs or outputs."""
    inputs = [keras.Input((None, 16)) for _ in range(ends[0])]
    x = keras.layers.Add()(inputs) if len(inputs) > 1 else inputs[0]
    outputs = [keras.layers.Dense(3)(x) for _ in range(ends[1])]
    return keras.Model(inputs, outputs)


def image_head():
    return keras.Sequential([keras.Input((4, 4, 16)), keras.layers.Dense(3)])


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def test_mismatched_heads(saved, tmp_path):
    """Heads of other models, and members of the file that do not belong together."""
    folder = unlisted(saved["huggingface+head.keras"], tmp_path / "a")
    path = folder / "head.keras"
    members = members_of(path)
    heads = [classification_head(size, 3) for size in (1, 8, 15, 17, 32)]
    heads += [classification_head(16, n) for n in (1, 2, 4, 119)]
    heads += [several(2, 1), several(1, 2), several(2, 2), image_head()]
    for head in heads:
        head.save(path)
        with pytest.raises(ValueError, match=str(folder)):
            load_pretrained(folder)

    heads[3].save(tmp_path / "other.keras")
    others = members_of(tmp_path / "other.keras")
    changes = [{name: content} for name in ("config.json", "model.weights.h5")
               for content in (None, b"", b"{}", b"[]", others[name])]  # fmt: skip
    for change in changes:
        write_members(path, {**members, **change})
        with pytest.raises(ValueError, match=str(folder)):
            load_pretrained(folder)
    assert len(heads) + len(changes) >= 20


EVIL = {
    "a function of Python": {"module": "builtins", "class_name": "function", "config": "exec"},
    "a function of a module": {"module": "os", "class_name": "function", "config": "system"},
    "a class of a module": {"module": "subprocess", "class_name": "Popen", "config": {}},
    "a module of Keras": {"module": "keras.utils", "class_name": "get_file", "config": {}},
    "a Lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "x"}},
    "a lambda": {"class_name": "__lambda__", "config": {"value": ""}},
}


@pytest.mark.parametrize("case", EVIL)
def test_no_code_of_a_head_is_run(case, saved, tmp_path):
    folder = unlisted(saved["huggingface+head.keras"], tmp_path / "a")
    members = members_of(folder / "head.keras")
    config = json.loads(members["config.json"])
    config["config"]["layers"][1] = {**config["config"]["layers"][1], **EVIL[case]}
    config["config"]["layers"][1].pop("registered_name", None)
    members["config.json"] = json.dumps(config)
    write_members(folder / "head.keras", members)
    with pytest.raises(ValueError, match=r"head\.keras.*asks for"):
        load_pretrained(folder)


def test_files_of_other_kinds(saved, tmp_path):
    """Each file in the place of each other one."""
    source_folder = saved["huggingface+head.keras"]
    files = sorted(path.name for path in source_folder.iterdir())
    assert len(files) == 6
    for target in files:
        for source in files:
            if source == target:
                continue
            folder = tmp_path / f"{source}-as-{target}"
            shutil.copytree(source_folder, folder)
            shutil.copy(folder / source, folder / target)
            with pytest.raises((ValueError, OSError), match=str(Path(folder).name)):
                load_pretrained(folder)


def test_weights_of_a_whole_model_are_left_alone(saved, tmp_path):
    """A model in use keeps its weights and its outputs when a load into it fails."""
    model = make_bert(1, seed=2)
    batch = bert_helpers.make_batch(9, 4)[:2]
    before = bert_helpers.run(model.model, batch)
    folder = shutil.copytree(saved["google"], tmp_path / "a")
    path = folder / "bert_model.ckpt.data-00000-of-00001"
    path.write_bytes(damaged(path.read_bytes(), "flip", 300))
    with pytest.raises(ValueError, match="corrupt"):
        load_weights(model, folder)
    np.testing.assert_array_equal(bert_helpers.run(model.model, batch), before)
