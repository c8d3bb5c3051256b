"""The times that a budget in milliseconds is compared with."""

import numpy as np
import pytest
from hub_helpers import make_backbone

from bert_of_theseus.data import Batches, Encoded
from bert_of_theseus.heads import pooler_classification_head
from bert_of_theseus.pretrained import budget
from bert_of_theseus.pretrained.budget import time_answers

pytestmark = pytest.mark.slow_unless("torch")


def texts(lengths, names):
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 20, length).astype("int32") for length in lengths]
    return Batches(Encoded(ids, np.zeros(len(ids), "int32")), 4, input_names=names)


@pytest.mark.parametrize(
    "family, installed", [("Bert", True), ("DistilBert", True), ("Bert", False)]
)
def test_single_texts_as_they_are_exported(family, installed, tmp_path, monkeypatch):
    if installed:
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setattr(budget.importlib.util, "find_spec", lambda name: None)
    backbone = make_backbone(family, vocabulary_size=20)
    activation = "relu" if family == "DistilBert" else "tanh"
    head = pooler_classification_head(8, 2, pooler_activation=activation)
    batches = texts([3, 7, 5, 4, 6, 2, 7], list(backbone.input))
    before = [x["token_ids"].shape for x, _ in batches]
    timing = time_answers(backbone, head, batches, tmp_path, count=4)
    assert (timing.shortest, timing.longest, timing.count) == (2, 7, 4)
    assert 0 < timing.milliseconds <= timing.slowest < 1000
    assert ("ONNX" in str(timing)) == installed and "4 validation texts of 2 to 7" in str(timing)
    assert not [*tmp_path.iterdir()]
    assert [x["token_ids"].shape for x, _ in batches] == before and batches.batch_size == 4
