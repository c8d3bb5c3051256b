"""The hidden size by which a stage finds its learning rate, of bert4keras' families."""

import pytest
from bert_helpers import TINY, make_bert

from bert_of_theseus.defaults import find_hidden_size

MODELS = {
    "bert": {},
    "albert": {"embedding_size": 8},
    "electra": {"embedding_size": 8},
    "nezha": {},
    "roformer_v2": {},
    "t5_encoder": {},
}


@pytest.mark.parametrize("model", [
    pytest.param(model, marks=() if model == "albert" else pytest.mark.slow) for model in MODELS
])  # fmt: skip
def test_of_an_encoder(model):
    encoder = make_bert(model=model, **MODELS[model])
    assert find_hidden_size(encoder.model) == TINY["hidden_size"]
