"""A model of each family, compressed to half its layers, as `transformers` loads it."""

import warnings

import keras_hub
import numpy as np
import pytest
from hub_folders import FAMILIES, LABELS, batch, ours, save, theirs, torch, transformers
from hub_helpers import Host, outputs

from bert_of_theseus import Stage, build_successor_backbone, compress
from bert_of_theseus.checkpoints import find_checkpoint, load_pretrained, save_pretrained
from bert_of_theseus.encoders import as_encoder

# On PyTorch, which compiles nothing, those that differ most; all of them in the slow tier.
FAST = {family: pytest.mark.slow_unless("torch") for family in ("albert", "deberta-v2", "roberta")}
EACH = [pytest.param(family, marks=FAST.get(family, pytest.mark.slow)) for family in FAMILIES]


def load_theirs(folder, kind):
    """`transformers`' model of a folder, in which it finds all that it needs and nothing else."""
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("family", EACH)
def test_compressed_to_half_its_layers(family, tmp_path):
    original = save(family, tmp_path / "model")
    encoder, classifier, labels = load_pretrained(tmp_path / "model")
    assert labels == LABELS
    rows = 8
    x = batch(encoder, lengths=[11, 5, 2, 4] * (rows // 4))
    whole = as_encoder(encoder).model(classifier, "whole")
    said = torch.softmax(theirs(original, x).logits, -1).numpy()
    np.testing.assert_allclose(ours(whole, x), said, atol=1e-5)

    before = encoder.get_weights()
    successor = build_successor_backbone(encoder, 2)
    y = np.arange(rows) % 3
    result = compress(
        encoder, successor, classifier, train=(x, y), validation=(x, y),
        directory=tmp_path / "run", predecessor_stage=None, warm_start_stage=Stage(epochs=1),
        theseus_stage=Stage(epochs=1),
        successor_stage=Stage(epochs=1, learning_rate=0.01), batch_size=4, latency=False, verbose=0,
    )  # fmt: skip
    assert all(map(np.array_equal, before, encoder.get_weights()))
    assert [row["layers"] for row in result.rows] == [4, 2, 2, 2]
    save_pretrained(tmp_path / "small", successor, result.classifier, labels=labels)
    small = load_theirs(tmp_path / "small", "AutoModelForSequenceClassification")
    assert type(small) is type(original)
    assert small.config.num_hidden_layers == 2
    assert small.config.id2label == dict(enumerate(LABELS))
    logits = theirs(small, x).logits
    scores = torch.log_softmax(logits, -1).numpy()
    np.testing.assert_allclose(np.log(ours(result.successor, x)), scores, atol=1e-4)
    assert np.abs(torch.softmax(logits, -1).numpy() - said).max() > 1e-3
    # And here again, as it was.
    again, head, _ = load_pretrained(tmp_path / "small")
    found = ours(as_encoder(again).model(head, "again"), x)
    np.testing.assert_allclose(found, ours(result.successor, x), atol=1e-6)


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_and_saved_again(family, tmp_path):
    """Tensors bit for bit, and what `transformers` computes: labels of tokens, one layer."""
    for kind in ("ForSequenceClassification", "ForTokenClassification"):
        original = save(family, tmp_path / kind, kind)
        encoder, classifier, labels = load_pretrained(tmp_path / kind)
        save_pretrained(tmp_path / "again", encoder, classifier, labels=labels)
        checkpoints = [find_checkpoint(tmp_path / name) for name in (kind, "again")]
        assert checkpoints[0].names == checkpoints[1].names
        for name in checkpoints[0].names:
            np.testing.assert_array_equal(*(each.tensor(name) for each in checkpoints))
        again = load_theirs(tmp_path / "again", f"AutoModel{kind}")
        assert type(again) is type(original)
        x = batch(encoder)
        np.testing.assert_array_equal(theirs(again, x).logits, theirs(original, x).logits)


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("family", ["Albert", "Bert", "DebertaV3", "DistilBert", "Roberta"])
def test_keras_hubs_text_classifiers_are_saved_whole(family, tmp_path):
    host = Host(family)
    successor = build_successor_backbone(host.task, 1)
    small = type(host.task).from_config({**host.task.get_config(), "backbone": successor})
    for model in (host.task, small):
        save_pretrained(tmp_path, model, labels=["bad", "good"])
        found = load_theirs(tmp_path, "AutoModelForSequenceClassification")
        np.testing.assert_allclose(theirs(found, host.x).logits, outputs(model, host.x), atol=1e-4)
    # A head that no model of the family has.
    if family != "Bert":
        return
    task = keras_hub.models.XLMRobertaTextClassifier(Host("XLMRoberta").backbone, 2, hidden_dim=5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)  # `pytest.warns` would pass on all others
        save_pretrained(tmp_path, task)
    assert any("head.keras" in str(warning.message) for warning in said)
