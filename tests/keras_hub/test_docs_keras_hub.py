"""The blocks of the documentation for Hugging Face and KerasHub run as they stand."""

import keras
import keras_hub
import numpy as np
import pytest
from docs_blocks import run_block, write_bert
from pretrained_folders import write_texts

from bert_of_theseus import build_successor_model
from bert_of_theseus.backend import BACKEND
from bert_of_theseus.checkpoints import load_pretrained

if BACKEND != "torch":
    pytest.skip("once is enough: each step is tested on all", allow_module_level=True)

# KerasHub gives its `fit` of texts a tf.data.Dataset, which Keras says it does not shuffle.
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored")

LABELS = ["bad", "good"]
TEXTS = ["a joy to watch", "two hours of my life", "ada in london", "to watch my life"]


@pytest.fixture(scope="module")
def scope(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    write_bert(folder / "bert-base")
    keras.utils.set_random_seed(0)
    labels = np.arange(4) % 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_texts(folder / "train.csv", 20, labels=LABELS)
        scope = {"texts": TEXTS, "labels": labels, "dev_texts": TEXTS, "dev_labels": labels}
        run_block("keras-hub", scope)  # which all others go on from
        yield scope


def test_recipe(scope):
    successor = scope["result"].successor
    assert isinstance(successor, keras_hub.models.BertTextClassifier)
    reloaded = keras_hub.models.TextClassifier.from_preset("small")
    np.testing.assert_allclose(
        reloaded.predict(TEXTS, verbose=0), successor.predict(TEXTS, verbose=0), atol=1e-6
    )


@pytest.mark.slow
def test_steps(scope):
    run_block("keras-hub-steps", scope)
    assert scope["small"].predict(TEXTS, verbose=0).shape == (4, 2)
    assert len(scope["small"].backbone.transformer_layers) == 3


@pytest.mark.slow
def test_load_backbone(scope):
    run_block("load-backbone", scope)
    x = scope["predecessor"].preprocessor(TEXTS)
    assert scope["theseus"].predict(x, verbose=0).shape == (4, 2)


@pytest.mark.slow
def test_fine_tune(scope):
    run_block("fine-tune", scope)
    encoder, head, labels = load_pretrained("fine-tuned")
    assert labels == LABELS
    x = scope["validation"][0][0]
    found = build_successor_model(encoder, head).predict(x, verbose=0)
    np.testing.assert_allclose(found, scope["model"].predict(x, verbose=0), atol=1e-6)
