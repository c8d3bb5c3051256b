"""Seven families of encoders, as `transformers` writes them, read in one form without a Keras."""

import json
import pickle
import shutil
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_of_theseus.checkpoints import find_checkpoint, read_task
from bert_of_theseus.checkpoints.configs import read_config, write_config
from bert_of_theseus.checkpoints.families import FAMILIES, POOLER, encoder_shapes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import tiny_transformers  # noqa: E402

EACH = list(FAMILIES)
LABELS = tiny_transformers.LABELS
# Of each kind of head: the task, what its config has, and what is read.
TASKS = {
    "single": ("Sequence", {}, ("sequence", LABELS, "softmax", 3)),
    "pairs of classes": (
        "Sequence", {"labels": ["LABEL_0", "LABEL_1"]}, ("sequence", None, "softmax", 2),
    ),
    "several": (
        "Sequence",
        {"problem_type": "multi_label_classification"},
        ("sequence", LABELS, "sigmoid", 3),
    ),
    "number": (
        "Sequence",
        {"problem_type": "regression", "labels": ["x"]},
        ("sequence", ["x"], "linear", 1),
    ),
    "tokens": ("Token", {}, ("token", tiny_transformers.TAGS, "softmax", 3)),
}  # fmt: skip
POOLER_ACTIVATIONS = {"distilbert": "relu", "electra": "gelu", "deberta-v2": "gelu"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Folders as `transformers` writes them, each once."""
    made = {}

    def folder(family, task="single"):
        if (family, task) not in made:
            made[family, task] = path = tmp_path_factory.mktemp(family)
            kind, options, _ = TASKS.get(task, TASKS["single"])
            model, _ = tiny_transformers.write(path, family, kind, **options)
            if task == "encoder":
                model.base_model.save_pretrained(path)
        return made[family, task]

    return folder


def changed(source, target, config=(), tensors=()):
    """A copy of a folder with other values in its config and its weights; `None` removes one."""
    target.mkdir()
    (target / "config.json").write_text(json.dumps(altered(read(source), config)))
    stored = altered(load_file(source / "model.safetensors"), tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, target / "model.safetensors")
    return target


def altered(content, changes):
    content = {**content, **dict(changes)}
    return {name: value for name, value in content.items() if value is not None}


def read(folder):
    return json.loads((folder / "config.json").read_text())


def refused(folder, *texts):
    with pytest.raises(ValueError) as caught:
        read_task(find_checkpoint(folder))
    for text in (str(folder), *texts):
        assert text in str(caught.value)


def canonical(folder):
    checkpoint = find_checkpoint(folder)
    return {name: checkpoint.tensor(name) for name in checkpoint.names}


# One form.


@pytest.mark.parametrize("family", EACH)
def test_what_transformers_wrote(family, folder_of):
    for task, (_, _, (kind, labels, activation, number)) in TASKS.items():
        folder = folder_of(family, task)
        checkpoint, facts = find_checkpoint(folder), read_task(find_checkpoint(folder))
        assert facts[:4] == (kind, labels, activation, number), task
        pooler = POOLER_ACTIVATIONS.get(family, "tanh") if kind == "sequence" else None
        assert facts.pooler_activation == pooler
        # Every tensor has one name, and this name leads back to it.
        stored = load_file(folder / "model.safetensors")
        found = {}
        for name in checkpoint.names:
            value = checkpoint.tensor(name)
            assert value.shape == checkpoint.shape(name)
            found[checkpoint.family.stored(name, kind)] = value.T if "kernel" in name else value
        assert found.keys() == stored.keys()
        assert all(found[name].tobytes() == value.tobytes() for name, value in stored.items())
        # They are those that the config asks for, and the head's.
        head = {"classifier/kernel": (16, number), "classifier/bias": (number,)}
        if kind == "sequence":
            head.update({POOLER[0]: (16, 16), POOLER[1]: (16,)})
        shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
        assert shapes == {**dict(encoder_shapes(checkpoint.config)), **head}


@pytest.mark.parametrize("family", EACH)
def test_encoders_without_a_head(family, folder_of):
    folder = folder_of(family, "encoder")
    checkpoint = find_checkpoint(folder)
    assert read_task(checkpoint).kind is None
    stored = load_file(folder / "model.safetensors")
    assert {checkpoint.family.stored(name) for name in checkpoint.names} == stored.keys()
    whole = canonical(folder_of(family))
    for name, value in canonical(folder).items():
        if name not in POOLER:
            np.testing.assert_array_equal(value, whole[name])


@pytest.mark.parametrize("family", EACH)
def test_configs_go_back_as_they_came(family, folder_of, tmp_path):
    path = folder_of(family) / "config.json"
    config, raw = read_config(path)
    written = write_config(config)
    assert {key: raw.get(key, 0) for key in written} == {**written}
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_config(tmp_path / "config.json")[0] == config
    positions = 24 if "roberta" in family else raw["max_position_embeddings"]
    assert config["max_position_embeddings"] == positions
    assert config.get("position_offset") == (2 if "roberta" in family else None)


def test_defaults_are_those_of_transformers(folder_of, tmp_path):
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    for family in EACH:
        config = transformers.AutoConfig.for_model(family)
        # Of DeBERTas only what differs from the defaults is supported.
        own = tiny_transformers.FAMILIES[family][1] if family == "deberta-v2" else {}
        names = {FAMILIES[family].key(key): getattr(config, key) for key in sizes}
        key = FAMILIES[family].key("intermediate_size")
        raw = {"model_type": family, **names, key: getattr(config, key), **own}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        expected = {**config.to_dict(), **own, "architectures": None}
        (tmp_path / "whole.json").write_text(json.dumps(expected))
        assert read_config(tmp_path / "config.json")[0] == read_config(tmp_path / "whole.json")[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, folder_of, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder_of("roberta"))
    half = model.to(getattr(torch, dtype))
    half.save_pretrained(tmp_path)
    found = canonical(tmp_path)
    for name, value in canonical(folder_of("roberta")).items():
        rounded = torch.tensor(value).to(getattr(torch, dtype)).float().numpy()
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], rounded)


def write_bin(folder, content, legacy=False):
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("form", ["shards", "bin", "old bin", "bin shards"])
def test_other_files_of_weights(form, folder_of, tmp_path):
    source = folder_of("electra")
    shutil.copy(source / "config.json", tmp_path)
    stored = {name: torch.tensor(x) for name, x in load_file(source / "model.safetensors").items()}
    names = sorted(stored)
    parts = [names[::2], names[1::2]]
    if form == "shards":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
        model.save_pretrained(tmp_path, max_shard_size="8KB")
        assert len(list(tmp_path.glob("model-*"))) > 2
    elif form == "bin shards":
        index = {}
        for number, part in enumerate(parts):
            file = f"pytorch_model-{number}.bin"
            torch.save({name: stored[name].half() for name in part}, tmp_path / file)
            index.update(dict.fromkeys(part, file))
        path = tmp_path / "pytorch_model.bin.index.json"
        path.write_text(json.dumps({"weight_map": index}))
    else:
        write_bin(tmp_path, stored, legacy=form == "old bin")
    found = canonical(tmp_path)
    for name, value in canonical(source).items():
        expected = value.astype("float16") if form == "bin shards" else value
        np.testing.assert_array_equal(found[name], expected)


class Bomb:
    def __reduce__(self):
        return exec, ("import bert_of_theseus; bert_of_theseus.bomb = True",)


def test_pytorch_files_run_no_code(folder_of, tmp_path):
    import bert_of_theseus

    shutil.copy(folder_of("bert") / "config.json", tmp_path)
    path = tmp_path / "pytorch_model.bin"
    for content in (Bomb(), {"embeddings.LayerNorm.weight": Bomb()}):
        write_bin(tmp_path, content)
        refused(tmp_path, "pytorch_model.bin", "more than tensors")
        path.write_bytes(pickle.dumps(content, protocol=2))
        refused(tmp_path, "pytorch_model.bin", "more than tensors")
    assert not hasattr(bert_of_theseus, "bomb")
    for content in ([torch.ones(3)], {"step": 3}, {3: torch.ones(3)}):
        write_bin(tmp_path, content)
        refused(tmp_path, "pytorch_model.bin", "must hold a dict of tensors by name")


def test_damaged_pytorch_files(folder_of, tmp_path):
    source = folder_of("bert")
    shutil.copy(source / "config.json", tmp_path)
    stored = load_file(source / "model.safetensors")
    path = tmp_path / "pytorch_model.bin"
    for legacy in (False, True):
        write_bin(tmp_path, {name: torch.tensor(x) for name, x in stored.items()}, legacy)
        whole = path.read_bytes()
        for size in (0, 1, 7, 100, len(whole) // 2, len(whole) - 8):
            path.write_bytes(whole[:size])
            refused(tmp_path, "pytorch_model.bin", "truncated or corrupt")


def test_pytorch_files_without_pytorch(folder_of, tmp_path, monkeypatch):
    shutil.copy(folder_of("bert") / "config.json", tmp_path)
    write_bin(tmp_path, {})
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pytorch_model\.bin.*pip install torch"):
        find_checkpoint(tmp_path)


def test_names_of_old_files(folder_of, tmp_path):
    source = folder_of("roberta")
    changes = {"roberta.embeddings.position_ids": np.arange(26)[None]}
    # Models of 2020 held the encoder's pooler too, which the classifier does not use.
    for part in ("weight", "bias"):
        changes[f"roberta.pooler.dense.{part}"] = np.ones((16, 16)[: 1 + (part == "weight")])
    changes["lm_head.bias"] = np.ones(3)
    for name, value in load_file(source / "model.safetensors").items():
        if "LayerNorm" in name:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            changes.update({name: None, old: value})
    folder = changed(source, tmp_path / "a", tensors=changes)
    assert read_task(find_checkpoint(folder)).kind == "sequence"
    found = canonical(folder)
    for name, value in canonical(source).items():
        np.testing.assert_array_equal(found[name], value)
    left_out = find_checkpoint(folder).left_out
    assert left_out == ["encoder_pooler/roberta/pooler/dense/bias",
                        "encoder_pooler/roberta/pooler/dense/weight", "lm_head/bias"]  # fmt: skip


# Which head it is.


@pytest.mark.parametrize("said", [
    None, "BertModel", "MyOwnBert", ["MyOwnBert"], [], [3], {"a": 1}, ["BertForMaskedLM"],
])  # fmt: skip
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_the_tensors_decide(family, said, folder_of, tmp_path):
    folder = changed(folder_of(family), tmp_path / "a", {"architectures": said})
    assert read_task(find_checkpoint(folder)).kind == "sequence"
    config = {"architectures": said, "id2label": None, "label2id": None}
    folder = changed(folder_of(family, "tokens"), tmp_path / "b", config)
    assert read_task(find_checkpoint(folder)).kind == "token"


def test_heads_that_are_refused(folder_of, tmp_path):
    bert, roberta = folder_of("bert"), folder_of("roberta")
    kernel = load_file(bert / "model.safetensors")["classifier.weight"]
    token = "BertForTokenClassification"
    tags = {"id2label": {"0": "O", "1": "B-X", "2": "I-X"}}
    bias = {"classifier.bias": None}
    cases = [
        (bert, {"architectures": ["BertForMultipleChoice"]}, {}, "BertForMultipleChoice"),
        (bert, {"architectures": ["NewBert"], **tags}, {}, f"['{token}'], not ['NewBert']"),
        (roberta, {"architectures": ["RobertaForTokenClassification"]}, {}, "classifier.out_proj."),
        (bert, {}, bias, "lacks the head's classifier.bias"),
        (bert, {"architectures": None}, bias, "lacks the head's classifier.bias"),
        (bert, {}, {"classifier.weight": None, **bias}, "lacks the head's classifier.weight, cl"),
        (bert, {}, {"bert.pooler.dense.bias": None}, "lacks the head's bert.pooler.dense.bias"),
        (bert, {}, {"classifier.weight": kernel.astype("int8")}, "stored as I8"),
        (bert, {}, {"classifier.weight": kernel[:2]}, "classifier.weight: shape (16, 2)"),
        (bert, {}, {"classifier.weight": kernel[:, :8]}, "classifier.weight: shape (8, 3)"),
        (bert, {}, {"classifier.bias": np.float32(1)}, "not fit a BertForSequenceClassification"),
        (bert, {}, {"qa_outputs.weight": kernel}, "neither of its encoder nor of a head that is"),
        (bert, {}, {"crf.transitions": kernel}, "crf.transitions"),
        (bert, {"id2label": {"0": "a", "2": "b", "3": "c"}}, {}, "id2label"),
        (bert, {"id2label": {"0": "a", "1": 2, "2": "c"}}, {}, "id2label"),
        (bert, {"id2label": ["a", "b", "c"]}, {}, "id2label"),
        (bert, {"id2label": {"0": "a", "1": "b", "2": "a"}}, {}, "distinct labels in id2label"),
        (bert, {"id2label": {"0": "a", "1": "b"}}, {}, "has 2 labels in id2label, and the head 3"),
        (bert, {"id2label": None, "num_labels": 2}, {}, "has 2 labels in num_labels"),
        (bert, {"problem_type": "ranking"}, {}, "problem_type must be one of"),
        (bert, {"problem_type": ["regression"]}, {}, "problem_type must be one of"),
        (bert, {"problem_type": "regression"}, {}, "must have one label, not 3"),
        (bert, {"classifier_dropout": 1.5}, {}, "classifier_dropout must be in [0, 1)"),
        (bert, {"classifier_activation": "relu"}, {}, "classifier_activation must be one of"),
    ]  # fmt: skip
    for number, (source, config, tensors, text) in enumerate(cases):
        refused(changed(source, tmp_path / str(number), config, tensors), text)
    folder = changed(bert, tmp_path / "beside")
    (folder / "head.keras").write_text("another head, and which is the model's?")
    refused(folder, "neither of its encoder nor of a head that is known: classifier.bias, classifi")
    deberta = folder_of("deberta-v2")
    for number, act in enumerate(("leaky_relu", "gelu_new", 3, "")):
        folder = changed(deberta, tmp_path / f"d{number}", {"pooler_hidden_act": act})
        refused(folder, "pooler_hidden_act must be one of")
    folder = changed(deberta, tmp_path / "e", {"pooler_hidden_act": "silu", "pooler_dropout": 0.3})
    facts = read_task(find_checkpoint(folder))
    assert (facts.pooler_activation, facts.input_dropout_rate) == ("swish", 0.3)


@pytest.mark.parametrize("family, key, rates", [
    ("bert", "classifier_dropout", (0.3, 0.0, 0.3)),
    ("roberta", "classifier_dropout", (0.3, 0.3, 0.3)),
    ("electra", "classifier_dropout", (0.3, 0.3, 0.3)),
    ("distilbert", "seq_classif_dropout", (0.3, 0.0, 0.1)),
    ("albert", "classifier_dropout_prob", (0.3, 0.0, 0.3)),
    ("deberta-v2", "cls_dropout", (0.3, 0.0, 0.1)),
])  # fmt: skip
def test_dropouts_of_heads(family, key, rates, folder_of, tmp_path):
    texts = read_task(find_checkpoint(changed(folder_of(family), tmp_path / "a", {key: 0.3})))
    assert (texts.dropout_rate, texts.input_dropout_rate) == rates[:2]
    folder = changed(folder_of(family, "tokens"), tmp_path / "b", {key: 0.3})
    assert read_task(find_checkpoint(folder)).dropout_rate == rates[2]


def test_the_number_of_labels(folder_of, tmp_path):
    """As `transformers` has it: `num_labels` counts where there is no `id2label`."""
    change = {"id2label": None, "label2id": None, "num_labels": 3}
    folder = changed(folder_of("bert"), tmp_path / "a", change)
    assert read_task(find_checkpoint(folder))[1:4] == (None, "softmax", 3)
    folder = changed(folder_of("bert"), tmp_path / "b", {"num_labels": 7})
    assert read_task(find_checkpoint(folder)).labels == LABELS


# Configs that are refused, by the option's name.

ANY = [
    ({"is_decoder": True}, "is_decoder must be False, not True"),
    ({"add_cross_attention": True}, "add_cross_attention must be False"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder must be False"),
    ({"position_embedding_type": "relative_key_query"}, "position_embedding_type must be 'absol"),
    ({"quantization_config": {"load_in_8bit": True}}, "quantization_config must not be there (th"),
    ({"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map must not be there"),
    ({"pruned_heads": {"1": [0]}}, "pruned_heads must not be there"),
    ({"vocab_size": None}, "lacks vocab_size"),
    ({"pad_token_id": 99}, "pad_token_id must be below vocab_size"),
    ({"pad_token_id": -1}, "pad_token_id must be an integer of at least 0"),
    ({"max_position_embeddings": "24"}, "max_position_embeddings must be a positive integer"),
]  # fmt: skip
OWN = {
    "bert": [
        ({"hidden_act": "quick_gelu"}, "hidden_act must be one of"),
        ({"type_vocab_size": 0}, "type_vocab_size must be a positive integer, not 0"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"model_type": "gpt2"}, "a model of type 'gpt2'; supported: 'bert', 'roberta'"),
        ({"model_type": {"a": 1}}, "supported: 'bert', 'roberta'"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be in (0, 1)"),
    ],
    "roberta": [({"max_position_embeddings": 2}, "max_position_embeddings must be above 2, not 2")],
    "distilbert": [
        ({"activation": "mish"}, "activation must be one of"),
        ({"dim": None, "n_heads": None}, "lacks dim, n_heads"),
        ({"n_heads": 3}, "dim 16 is not a multiple of n_heads 3"),
        ({"attention_dropout": 1}, "attention_dropout must be in [0, 1)"),
    ],
    "electra": [({"embedding_size": 0}, "embedding_size must be a positive integer")],
    "albert": [
        ({"num_hidden_groups": 0}, "num_hidden_groups must be a positive integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 1000"),
    ],
    "deberta-v2": [
        ({"position_buckets": -1}, "position_buckets must be a positive integer, not -1"),
        ({"relative_attention": None}, "relative_attention must be True, not False"),
        ({"pos_att_type": ["c2p"]}, "pos_att_type must be ['p2c', 'c2p'], not ['c2p']"),
        ({"share_att_key": False}, "share_att_key must be True"),
        ({"norm_rel_ebd": None}, "norm_rel_ebd must be 'layer_norm', not 'none'"),
        ({"position_biased_input": True}, "position_biased_input must be False"),
        ({"max_relative_positions": 512}, "max_relative_positions must be -1, not 512"),
        ({"type_vocab_size": 2}, "type_vocab_size must be 0"),
        ({"conv_kernel_size": 3}, "conv_kernel_size must be 0"),
        ({"embedding_size": 8}, "embedding_size must be 16"),
        ({"attention_head_size": 4}, "attention_head_size must be 8"),
        ({"pooler_hidden_size": 8}, "pooler_hidden_size must be 16"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings must be at most"),
    ],
}


@pytest.mark.parametrize("family", EACH)
def test_options_that_are_not_computed(family, folder_of, tmp_path):
    for number, (change, text) in enumerate(ANY + OWN.get(family, [])):
        refused(changed(folder_of(family), tmp_path / str(number), change), text, "config.json")


HOSTILE = [
    *(True, -1, 0, 3, 0.5, 10**30, 1e400, float("nan")),
    *("", "x", "\ud800", [], [["a"]], {}, {"0": "a"}, ["BertForSequenceClassification"]),
]  # fmt: skip
LESS = [
    pytest.param(family, marks=[] if family in ("bert", "deberta-v2") else pytest.mark.slow)
    for family in EACH
]


@pytest.mark.parametrize("family", LESS)
def test_values_of_any_kind_are_read_or_refused_by_name(family, folder_of, tmp_path):
    folder = changed(folder_of(family), tmp_path / "a")
    raw, path = read(folder), folder / "config.json"
    more = ("num_labels", "quantization_config", "auto_map", "cls_dropout")
    refusals = 0
    for key in [*raw, *more, "classifier_activation"]:
        for value in HOSTILE:
            path.write_text(json.dumps({**raw, key: value}))
            try:
                facts = read_task(find_checkpoint(folder))
            except ValueError as error:
                assert str(folder) in str(error)
                refusals += 1
            else:
                assert facts.kind == "sequence" and facts.num_outputs == 3
    assert refusals > 200


@pytest.mark.parametrize("family", EACH)
def test_options_that_change_nothing(family, folder_of, tmp_path):
    """What `transformers`' models do not read, and other spellings of what they do."""
    change = {"summary_type": "last", "use_cache": False, "pruned_heads": {}, "is_decoder": None}
    change.update({"tie_word_embeddings": False, "torch_dtype": "float16", "unheard_of": [1]})
    if family == "deberta-v2":
        change.update({"pos_att_type": "c2p|p2c", "max_relative_positions": 0, "legacy": False})
    folder = changed(folder_of(family), tmp_path / "a", change)
    assert find_checkpoint(folder).config == find_checkpoint(folder_of(family)).config
    act = FAMILIES[family].key("hidden_act")
    folder = changed(folder_of(family), tmp_path / "b", {act: "gelu_pytorch_tanh"})
    assert find_checkpoint(folder).config["hidden_act"] == "gelu_tanh"


# Tensors that do not fit the config.


@pytest.mark.parametrize("family", EACH)
def test_sizes_are_compared_before_anything_is_built(family, folder_of, tmp_path):
    source = folder_of(family)
    raw, key = read(source), FAMILIES[family].key
    sizes = [key(size) for size in ("vocab_size", "hidden_size", "intermediate_size")]
    sizes += ["max_position_embeddings", "type_vocab_size", "embedding_size", "position_buckets"]
    sizes += ["num_hidden_groups", "inner_group_num", key("num_hidden_layers")]
    sizes += [key("num_attention_heads")]
    started = time.process_time()
    count = 0
    for size in sizes:
        if raw.get(size):
            for value in (10**9, raw[size] * 2):
                count += 1
                folder = tmp_path / f"{size}-{value}"
                silent = (key("num_attention_heads"), "max_position_embeddings")
                if value != 10**9 and (
                    size == silent[0]
                    or (family == "deberta-v2" and size == silent[1])
                    or (family == "albert" and size == "num_hidden_layers")
                ):
                    continue  # which no tensor shows
                refused(changed(source, folder, {size: value}), "config.json")
    assert count >= 12
    assert time.process_time() - started < 10


@pytest.mark.parametrize("family", EACH)
def test_tensors_at_fault_are_named(family, folder_of, tmp_path):
    source = folder_of(family)
    stored = load_file(source / "model.safetensors")
    words = next(name for name in stored if name.endswith("word_embeddings.weight"))
    inner = next(name for name in stored if stored[name].shape == (24, 16) and "layer" in name)
    extra = inner.replace(".weight", ".adapter.weight")
    more = inner.replace("layer.0.", "layer.2.").replace("groups.0.", "groups.2.")
    cases = {
        "missing": ({words: None, inner: None}, [f"missing: {words}", f"missing: {inner}"]),
        "turned": ({inner: stored[inner].T}, [f"{inner}: shape (24, 16), expected (16, 24)"]),
        "whole numbers": ({inner: stored[inner].astype("int8")}, [f"{inner}: stored as I8"]),
        "more": ({extra: stored[inner]}, [f"not read: {extra}"]),
        "one layer more": ({more: stored[inner]}, ["layers, the file"]),
    }
    for number, (change, texts) in enumerate(cases.values()):
        folder = changed(source, tmp_path / str(number), tensors=change)
        refused(folder, "does not fit its config.json", "nothing was loaded", *texts)


def test_models_of_other_prefixes(folder_of, tmp_path):
    """A file that says RoBERTa and holds BERT."""
    folder = changed(folder_of("bert"), tmp_path / "a", {"model_type": "roberta"})
    refused(folder, "missing: ", "outside the encoder: ", "bert.embeddings.LayerNorm.bias, ")
