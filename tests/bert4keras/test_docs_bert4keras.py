"""The blocks of the documentation for bert4keras run as they stand, one after the other.

Eagerly, since tracing a graph for each training would take most of the time.
"""

import bert_of_theseus.bert4keras  # noqa: F401, I001

import numpy as np
import pytest
import tensorflow as tf
from docs_blocks import run_block, write_bert

from bert_of_theseus.data import Entity, Example

pytestmark = [
    # tf.data compiles what it runs: that is no matter here.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions"),
    # bert4keras gives all its layers one initializer.
    pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal is unseeded"),
]


@pytest.fixture(scope="module")
def scope(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    write_bert(folder / "bert-base")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 18, (8, 6))
    scope = {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "labels": np.arange(8) % 2,
        "dev_token_ids": ids[:2],
        "dev_segment_ids": np.zeros_like(ids[:2]),
        "dev_labels": np.arange(2),
        "texts": ["a joy to watch", "hours of my life"],
        "dev_examples": [Example("Ada in London", [Entity(0, 3, "person")])] * 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tf.config.run_functions_eagerly(True)
        run_block("bert4keras", scope)  # which all others go on from
        yield scope
        tf.config.run_functions_eagerly(False)


def test_bert4keras(scope):
    theirs = scope["small"]
    run_block("load-model", scope)
    x = [scope["token_ids"], scope["segment_ids"]]
    np.testing.assert_allclose(np.array(scope["small"](x)), np.array(theirs(x)), atol=1e-6)


@pytest.mark.slow
def test_recipe_to_predictions(scope):
    run_block("recipe", scope)
    assert [stage.name for stage in scope["result"].stages] == [
        "predecessor",
        "warm_start",
        "theseus",
        "successor",
    ]
    x = [scope["token_ids"], scope["segment_ids"]]
    expected = np.array(scope["result"].successor(x))
    run_block("save-pretrained", scope)
    assert scope["labels"] == ["bad", "good"]
    run_block("export", scope)
    np.testing.assert_allclose(scope["probabilities"], expected, atol=0.02)  # int8
    run_block("predict", scope)
    assert scope["answer"]["label"] in ("bad", "good")


@pytest.mark.slow
def test_fit(scope):
    inner = dict(scope, labels=np.arange(8) % 2)
    run_block("fit", inner)
    assert len(inner["stage_result"].history["step"]) == 3


@pytest.mark.slow
def test_tagging(scope):
    run_block("tagging", scope)
    assert scope["validation"].encoded.dropped == 0
    assert len(scope["outputs"]) == len(scope["dev_examples"])


@pytest.mark.slow
def test_mirrored(scope):
    run_block("mirrored", scope)
    assert isinstance(scope["theseus"].distribute_strategy, tf.distribute.MirroredStrategy)
