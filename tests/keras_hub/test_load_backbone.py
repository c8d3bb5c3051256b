"""Folders of `transformers` into KerasHub backbones, which compute the same, and back."""

import json
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from helpers import dtype_policy
from hub_folders import FAMILIES, SIZES, batch, ours, save, theirs, torch
from hub_helpers import outputs, quantize, scatter

from bert_of_theseus import build_successor_backbone, build_theseus_model, load_model
from bert_of_theseus.checkpoints import find_checkpoint, load_backbone
from bert_of_theseus.checkpoints.families import encoder_shapes
from bert_of_theseus.checkpoints.keras_hub import build_backbone, describe_backbone, fill
from bert_of_theseus.encoders.distances import distance_buckets
from bert_of_theseus.heads import pooler_classification_head

# Each family as it was published, and with options that KerasHub's own backbones do not have.
CASES = {
    "albert": [{}, {"num_hidden_groups": 3, "hidden_act": "gelu", "layer_norm_eps": 0.1}],
    "bert": [{}, {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 0.1}],
    "deberta-v2": [{}, {"position_buckets": 6, "hidden_act": "silu", "layer_norm_eps": 0.1}],
    "distilbert": [{}, {"hidden_act": "relu"}],
    "electra": [{}, {"embedding_size": 8, "layer_norm_eps": 0.1, "hidden_act": "relu"}],
    "roberta": [{}, {"pad_token_id": 3, "type_vocab_size": 2, "layer_norm_eps": 0.1}],
    "xlm-roberta": [{}, {"pad_token_id": 0, "hidden_act": "gelu_new"}],
}
# The same code on each backend, but for attention and positions.
ELSEWHERE = ("bert", "deberta-v2", "roberta")
EACH = [
    pytest.param(family, marks=[] if family in ELSEWHERE else pytest.mark.slow_unless("torch"))
    for family in FAMILIES
]


@pytest.mark.parametrize("family", EACH)
def test_what_transformers_computes(family, tmp_path):
    for options in CASES[family]:
        model = save(family, tmp_path, "ForSequenceClassification", **options)
        checkpoint = find_checkpoint(tmp_path)
        backbone = build_backbone(checkpoint.config)
        fill(backbone, checkpoint.tensors(name for name, _ in encoder_shapes(checkpoint.config)))
        # DeBERTa's positions are relative: buckets of distances, near and far.
        x = batch(backbone)
        expected = theirs(model.base_model, x, output_hidden_states=True)
        found, mask = ours(backbone, x), x["padding_mask"].astype(bool)
        hidden_states = expected.last_hidden_state.numpy()
        np.testing.assert_allclose(found[mask], hidden_states[mask], atol=1e-5)
        # A text is the same alone, and with more padding.
        pads = {"token_ids": backbone.padding_id}
        wide = {
            key: np.pad(value, [(0, 0), (0, 1)], constant_values=pads.get(key, 0))
            for key, value in x.items()
        }
        np.testing.assert_allclose(ours(backbone, wide)[:, :11][mask], found[mask], atol=1e-5)
        alone = {key: value[1:2, :5] for key, value in x.items()}
        np.testing.assert_allclose(ours(backbone, alone)[0], found[1, :5], atol=1e-5)

        # And back, bit for bit.
        config, tensors = describe_backbone(backbone)
        assert config == checkpoint.config
        assert sorted(tensors) == sorted(name for name, _ in encoder_shapes(config))
        for name, value in tensors.items():
            assert value.dtype == "float32"
            np.testing.assert_array_equal(value, checkpoint.tensor(name))

    # With fewer layers the options and the weights are the same ones.
    for depth in (1, 2):
        small = build_successor_backbone(backbone, depth)
        again = type(small).from_config(small.get_config())
        again.set_weights(small.get_weights())
        assert describe_backbone(again)[0] == {**config, **describe_backbone(small)[0]}
        if "num_groups" in small.get_config():  # other layers share their weights then
            continue
        layers = expected.hidden_states[depth].numpy()
        np.testing.assert_allclose(ours(again, x)[mask], layers[mask], atol=1e-5)


@pytest.mark.slow_unless("torch")
@pytest.mark.filterwarnings("ignore:.*has no pooler")
@pytest.mark.parametrize("family", FAMILIES)
def test_folders_with_other_heads(family, tmp_path):
    for kind in ("Model", "ForPreTraining" if family == "electra" else "ForMaskedLM"):
        model = save(family, tmp_path, kind)
        backbone = load_backbone(tmp_path, num_hidden_layers=4)
        x = batch(backbone)
        mask = x["padding_mask"].astype(bool)
        expected = theirs(model.base_model, x).last_hidden_state
        np.testing.assert_allclose(ours(backbone, x)[mask], expected[mask], atol=1e-5)


@pytest.mark.slow_unless("torch")
def test_an_albert_of_one_group_shares_its_layer_at_each_depth(tmp_path):
    model = save("albert", tmp_path, "Model")
    backbone = load_backbone(tmp_path)
    small = build_successor_backbone(backbone, 2)
    x = batch(backbone)
    mask = x["padding_mask"].astype(bool)
    expected = theirs(model, x, output_hidden_states=True)
    np.testing.assert_allclose(ours(small, x)[mask], expected.hidden_states[2][mask], atol=1e-5)
    assert small.count_params() == backbone.count_params()
    pooled = keras.ops.convert_to_numpy(backbone(x)["pooled_output"])
    np.testing.assert_allclose(pooled, expected.pooler_output, atol=1e-5)
    # One of several groups goes where there are fewer layers than groups.
    save("albert", tmp_path, "Model", num_hidden_groups=2)
    assert build_successor_backbone(load_backbone(tmp_path), 1).num_groups == 1


@pytest.mark.slow_unless("torch")
def test_the_buckets_of_distances():
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    for size, positions in [(256, 512), (64, 512), (128, 1024), (4, 16), (6, 40), (5, 40), (2, 16)]:
        distances = torch.arange(2 * positions)
        theirs = make_log_bucket_position(distances, size, positions).numpy()
        # All that are not below `size` are the last one.
        np.testing.assert_array_equal(distance_buckets(size, positions), np.minimum(theirs, size))


def test_the_dropout_of_attention_has_its_own_rate(tmp_path):
    for family in ("bert", "deberta-v2"):
        for attention, hidden in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
            rates = {"attention_probs_dropout_prob": attention, "hidden_dropout_prob": hidden}
            backbone = build_backbone({"model_type": family, **_canonical(family), **rates})
            scatter(backbone)
            layer = backbone.transformer_layers[0]
            layer = type(layer).from_config(layer.get_config())
            x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
            arrays = {"inputs": x, "padding_mask": np.ones((2, 5), "float32")}
            if family == "deberta-v2":
                arrays["rel_embeddings"] = x[:, :1].repeat(8, 1)
            # A model, which passes `training` on: KerasHub's layer of DeBERTa does not take it.
            inputs = {key: keras.Input(array.shape[1:], name=key) for key, array in arrays.items()}
            model = keras.Model(inputs, layer(**inputs))
            still, moving = (outputs(model, arrays, training) for training in (False, True))
            assert np.allclose(still, moving) == (attention == hidden == 0)
            config = layer.get_config()
            assert (config["attention_dropout"], config["dropout"]) == (attention, hidden)


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("family", FAMILIES)
def test_keras_hubs_own_backbones_are_written_as_what_they_compute(family):
    """`transformers` computes of the tensors what KerasHub does, by its gelu and its epsilon."""
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    sizes.update(max_sequence_length=12, vocabulary_size=40)
    own = {"albert": {"embedding_dim": 4}, "deberta-v2": {"bucket_size": 4}}
    own["electra"] = {"embedding_dim": 4, "vocab_size": sizes["vocabulary_size"]}
    if family == "electra":
        del sizes["vocabulary_size"]
    name = type(build_backbone({"model_type": family, **_canonical(family)})).__name__
    theirs_ = getattr(keras_hub.models, name)(**sizes, **own.get(family, {}))
    scatter(theirs_)
    config, tensors = describe_backbone(theirs_)
    backbone = build_backbone(config)
    fill(backbone, tensors)
    x = batch(backbone)
    x["token_ids"][0, 3] = 7  # KerasHub's RoBERTa does not see that it is padding
    mask = x["padding_mask"].astype(bool)
    np.testing.assert_allclose(ours(backbone, x)[mask], ours(theirs_, x)[mask], atol=1e-5)


def _canonical(family):
    more = {"embedding_size": 4, "num_hidden_groups": 1, "inner_group_num": 1}
    more = {"albert": more, "electra": {"embedding_size": 4}}.get(family, {})
    if family == "deberta-v2":
        more = {"position_buckets": 4}
    return {**SIZES, "type_vocab_size": 0, **more}


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_other_precisions_are_described_in_float32(policy, tmp_path):
    for family in ("bert", "deberta-v2", "roberta"):
        model = save(family, tmp_path, "Model")
        checkpoint = find_checkpoint(tmp_path)
        with dtype_policy(policy):
            backbone = load_backbone(tmp_path)
        x = batch(backbone)
        mask = x["padding_mask"].astype(bool)
        found = ours(backbone, x).astype("float32")[mask]
        np.testing.assert_allclose(found, theirs(model, x).last_hidden_state[mask], atol=0.3)
        config, tensors = describe_backbone(backbone)
        assert config == checkpoint.config
        for name, value in tensors.items():
            assert value.dtype == "float32"
            if policy.startswith("mixed"):
                np.testing.assert_array_equal(value, checkpoint.tensor(name))


def test_files_and_presets(tmp_path):
    save("bert", tmp_path / "bert", "Model")
    backbone = load_backbone(tmp_path / "bert", num_hidden_layers=1)
    assert len(backbone.transformer_layers) == 1
    x = batch(backbone)
    backbone.save(tmp_path / "backbone.keras")
    backbone.save_to_preset(str(tmp_path / "preset"))
    for again in (
        keras.models.load_model(tmp_path / "backbone.keras"),
        load_backbone(tmp_path / "preset"),
    ):
        np.testing.assert_array_equal(ours(again, x), ours(backbone, x))
        assert describe_backbone(again)[0] == describe_backbone(backbone)[0]
    with pytest.raises(ValueError, match="num_hidden_layers` is not for KerasHub's presets"):
        load_backbone(tmp_path / "preset", num_hidden_layers=1)


def _theseus_in_a_file(tmp_path):
    save("deberta-v2", tmp_path, "Model")
    backbone = load_backbone(tmp_path)
    head = pooler_classification_head(8, 2)
    theseus = build_theseus_model(backbone, build_successor_backbone(backbone, 1), head)
    theseus.save(tmp_path / "theseus.keras")
    x = batch(backbone)
    return x, outputs(theseus, x)


@pytest.mark.slow_unless("torch")
def test_a_theseus_model_in_a_file(tmp_path):
    """KerasHub's own table of DeBERTa's positions is not restored from a file."""
    x, expected = _theseus_in_a_file(tmp_path)
    again = load_model(tmp_path / "theseus.keras")
    np.testing.assert_array_equal(outputs(again, x), expected)


@pytest.mark.slow
def test_a_theseus_model_in_another_process(tmp_path):
    """`load_model` imports what the file needs."""
    x, expected = _theseus_in_a_file(tmp_path)
    np.savez(tmp_path / "x.npz", **x)
    code = (
        "import sys, numpy as np, bert_of_theseus as b; "
        "x = dict(np.load(sys.argv[2])); m = b.load_model(sys.argv[1]); "
        "np.save(sys.argv[3], m.predict(x, verbose=0))"
    )
    names = ("theseus.keras", "x.npz", "y.npy")
    subprocess.run([sys.executable, "-c", code, *(tmp_path / n for n in names)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)


@pytest.mark.slow_unless("torch")
def test_a_quantized_backbone(tmp_path):
    save("bert", tmp_path, "Model")
    backbone = load_backbone(tmp_path)
    x = batch(backbone)
    before = ours(backbone, x)
    quantize(backbone)
    np.testing.assert_allclose(ours(backbone, x), before, atol=0.2)
    with pytest.raises(ValueError, match="BertBackbone is quantized; save it before"):
        describe_backbone(backbone)


def test_what_is_refused(tmp_path):
    save("bert", tmp_path, "ForTokenClassification")
    with pytest.warns(UserWarning, match="has no pooler: that of the backbone starts at random"):
        backbone = load_backbone(tmp_path)
    with pytest.raises(ValueError, match="`num_hidden_layers` must be an integer from 1 to 4"):
        load_backbone(tmp_path, num_hidden_layers=5)
    _, tensors = describe_backbone(backbone)
    kept = backbone.get_weights()
    name, other = (f"bert/encoder/layer_0/output/dense/{part}" for part in ("kernel", "bias"))
    tensors[name] = tensors.pop(name).T
    del tensors[other]
    message = rf"nothing was loaded.*\n- {other} is missing\n- {name} must have the shape \(16, 8\)"
    with pytest.raises(ValueError, match=message):
        fill(backbone, tensors)
    assert all(map(np.array_equal, kept, backbone.get_weights()))

    layers = backbone.transformer_layers
    layers[0]._feedforward_layer_norm.epsilon = 0.5
    with pytest.raises(
        ValueError, match=r"no config can express layer_norm_epsilon \[1e-12, 0.5\]"
    ):
        describe_backbone(backbone)
    layers[0]._feedforward_layer_norm.epsilon = 1e-12
    layers[0]._feedforward_intermediate_dense.activation = keras.activations.selu
    with pytest.raises(ValueError, match=r"no config can express activation \['gelu', 'selu'\]"):
        describe_backbone(backbone)
    gpt = keras_hub.models.GPT2Backbone(9, 1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"GPT2Backbone cannot be written.*AlbertBackbone"):
        describe_backbone(gpt)
    with pytest.raises(ValueError, match=r"must be of a KerasHub backbone.*Received: 'gpt2'"):
        build_backbone({"model_type": "gpt2"})
    with pytest.raises(ValueError, match=r"hidden_size 8\. Received: embedding_size 4"):
        build_backbone({"model_type": "bert", **SIZES, "embedding_size": 4})

    config = json.loads((tmp_path / "config.json").read_text())
    for changes, problem in [
        ({"hidden_act": "mish"}, "hidden_act must be one of.*not 'mish'"),
        ({"position_embedding_type": "relative_key"}, "must be 'absolute'"),
        ({"model_type": "bart"}, "'bart'.*supported"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=problem):
            load_backbone(tmp_path)
    os.remove(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_backbone(tmp_path)
