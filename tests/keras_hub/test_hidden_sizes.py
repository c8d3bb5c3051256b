"""The hidden size by which a stage finds its learning rate, of KerasHub's families."""

import pytest
from hub_helpers import FAMILIES, Host, make_backbone, quantize

from bert_of_theseus import build_successor_backbone, build_theseus_model
from bert_of_theseus.defaults import find_hidden_size

pytestmark = pytest.mark.only("torch")  # shapes are the same on every backend


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_backbone(family):
    assert find_hidden_size(make_backbone(family)) == 8
    # As wide inside as three layers beside one another, and of many heads.
    wide = {} if family == "FNet" else {"num_heads": 8}
    assert find_hidden_size(make_backbone(family, 4, intermediate_dim=24, **wide)) == 8


def test_of_what_is_made_of_it():
    task = Host("Bert").task
    assert find_hidden_size(task) == 8
    assert find_hidden_size(build_theseus_model(task, build_successor_backbone(task, 1))) == 8
    task.backbone.trainable = False
    assert find_hidden_size(task) == 8
    quantize(task.backbone)  # without the tokenizer, which is not built on every backend
    assert find_hidden_size(task) == 8
