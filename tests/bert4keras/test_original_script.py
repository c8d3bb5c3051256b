"""A script in the shape of the original Keras example: its order of calls, its spellings.

All models are compiled before any is trained, and they share layers and weights. With
tf.keras the original `bert_of_theseus` would then train nothing, or what it should not.
"""

import numpy as np
import pytest
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
from bert4keras.optimizers import Adam
from bert4keras.snippets import DataGenerator, sequence_padding
from bert_helpers import untraced, weights_of

from bert_of_theseus import bert_of_theseus

# The original's spelling.
pytestmark = pytest.mark.filterwarnings("ignore:.Model.fit_generator. is deprecated")

NUM_CLASSES = 3
CONFIG = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position": 12,
    "dropout_rate": 0.1,
}


class TrainGenerator(DataGenerator):
    def __iter__(self, random=False):
        batch_token_ids, batch_segment_ids, batch_labels = [], [], []
        for is_end, (token_ids, label) in self.sample(random):
            batch_token_ids.append(token_ids)
            batch_segment_ids.append([0] * len(token_ids))
            batch_labels.append([label])
            if len(batch_token_ids) == self.batch_size or is_end:
                batch_token_ids = sequence_padding(batch_token_ids)
                batch_segment_ids = sequence_padding(batch_segment_ids)
                batch_labels = sequence_padding(batch_labels)
                yield [batch_token_ids, batch_segment_ids], batch_labels
                batch_token_ids, batch_segment_ids, batch_labels = [], [], []


def make_data(size):
    """Texts of several lengths; the class is their first token."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, size)
    return [
        ([1 + label, *rng.integers(4, 20, rng.integers(3, 8))], label) for label in labels.tolist()
    ]


class Evaluator(keras.callbacks.Callback):
    """Saves the weights of the best epoch."""

    def __init__(self, path, data):
        super().__init__()
        self.path, self.data, self.best = path, data, 0.0

    def on_epoch_end(self, epoch, logs=None):
        accuracy = evaluate(self.model, self.data)
        if accuracy >= self.best:
            self.best = accuracy
            self.model.save_weights(self.path)


def evaluate(model, data):
    total = right = 0
    for x, y in data:
        right += (model.predict(x, verbose=0).argmax(axis=1) == y[:, 0]).sum()
        total += len(y)
    return right / total


def changed(before, after):
    return [bool((a != b).any()) for a, b in zip(before, after)]


def test_the_script(tmp_path):
    with untraced():
        run_the_script(tmp_path, layers=(2, 1), size=12)


@pytest.mark.slow
def test_the_script_compiled(tmp_path):
    run_the_script(tmp_path, layers=(4, 2), size=24)


def run_the_script(tmp_path, layers, size):
    keras.utils.set_random_seed(0)
    predecessor = build_transformer_model(
        **CONFIG, num_hidden_layers=layers[0], return_keras_model=False, prefix="Predecessor-"
    )
    successor = build_transformer_model(
        **CONFIG, num_hidden_layers=layers[1], return_keras_model=False, prefix="Successor-"
    )
    x_in = keras.layers.Input(shape=(None, CONFIG["hidden_size"]))
    x = keras.layers.Lambda(lambda x: x[:, 0])(x_in)
    x = keras.layers.Dense(units=NUM_CLASSES, activation="softmax")(x)
    classifier = keras.models.Model(x_in, x)

    predecessor_model = keras.models.Model(predecessor.inputs, classifier(predecessor.output))
    successor_model = keras.models.Model(successor.inputs, classifier(successor.output))
    theseus_model = bert_of_theseus(predecessor, successor, classifier)
    for model in (predecessor_model, successor_model, theseus_model):
        model.compile(
            loss="sparse_categorical_crossentropy",
            optimizer=Adam(2e-2),
            metrics=["sparse_categorical_accuracy"],
        )

    data = make_data(size)
    train_generator = TrainGenerator(data, 4)
    valid_generator = TrainGenerator(data, 12)

    def train(model, path, epochs, fit="fit"):
        evaluator = Evaluator(path, valid_generator)
        getattr(model, fit)(
            train_generator.forfit(),
            steps_per_epoch=len(train_generator),
            epochs=epochs,
            callbacks=[evaluator],
            verbose=0,
        )
        model.load_weights(path)
        return evaluator

    def snapshot():
        return (
            weights_of(predecessor.model),
            weights_of(successor.model),
            weights_of(classifier),
        )

    # The predecessor: all of it and the head.
    before = snapshot()
    train(predecessor_model, str(tmp_path / "best_predecessor.weights"), 1, fit="fit_generator")
    after = snapshot()
    moved = [changed(a, b) for a, b in zip(before, after)]
    assert np.mean(moved[0]) > 0.9 and all(moved[2])  # unseen segments and positions do not move
    assert not any(moved[1])

    # Theseus: the successor, embeddings included, and nothing else.
    before = snapshot()
    train(theseus_model, str(tmp_path / "best_theseus.weights"), 2)
    after = snapshot()
    moved = [changed(a, b) for a, b in zip(before, after)]
    assert not any(moved[0]) and not any(moved[2])
    assert np.mean(moved[1]) > 0.9
    # At inference it is the successor with the head.
    batch = next(iter(valid_generator))[0]
    np.testing.assert_allclose(
        theseus_model.predict(batch, verbose=0),
        successor_model.predict(batch, verbose=0),
        atol=1e-6,
    )

    # The successor: all of it, and the head again.
    before = snapshot()
    evaluator = train(successor_model, str(tmp_path / "best_successor.weights"), 2)
    after = snapshot()
    moved = [changed(a, b) for a, b in zip(before, after)]
    assert not any(moved[0])
    assert np.mean(moved[1]) > 0.9 and all(moved[2])
    # The weights loaded last are the best epoch's.
    assert evaluate(successor_model, valid_generator) == evaluator.best
