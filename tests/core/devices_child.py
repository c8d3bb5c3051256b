"""Trains on two virtual CPU devices and on one; writes what was found, see test_distribution.py.

Arguments: a folder, and "whole" or "replica".
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np

from bert_of_theseus import (
    BinaryRandomChoice,
    LinearReplacement,
    ReplacementRateScheduler,
    Stage,
    build_theseus_model,
)
from bert_of_theseus.backend import BACKEND, KERAS_2, keras, to_numpy
from bert_of_theseus.data import Batches, Classification, Encoded, StoredBatches
from bert_of_theseus.models import build_warm_start_model, distil
from bert_of_theseus.training import BatchAccess, fit
from bert_of_theseus.training.examples import summary

X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = X[:, :3].argmax(-1).astype("int32")

if BACKEND == "tensorflow":
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    distributed = STRATEGY.scope

    def copies(weight):
        """Its value on each device."""
        return STRATEGY.experimental_local_results(weight if KERAS_2 else weight.value)

else:
    import jax

    MESH = keras.distribution.DataParallel(devices=keras.distribution.list_devices())
    distributed = MESH.scope

    def copies(weight):
        return [np.asarray(shard.data) for shard in weight.value.addressable_shards]


class Log(keras.callbacks.Callback):
    def __init__(self, stop_after):
        super().__init__()
        self.losses, self.rates, self.stop_after = [], [], stop_after

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        self.rates.append(float(logs["replacement_rate"]))
        if len(self.losses) == self.stop_after:
            raise KeyboardInterrupt


# Under `tf.distribute`, Keras 3 clips each replica's part of the gradient before it adds them up.
CLIP_NORM = None if BACKEND == "tensorflow" and not KERAS_2 else 1.0
BUILD = {"theseus": build_theseus_model, "warm_start": build_warm_start_model}
# Without labels and scores, as `compress` trains it.
FIT = {"theseus": {}, "warm_start": {"validation": None, "loss": None, "metrics": ()}}


def train(
    directory,
    scope=contextlib.nullcontext,
    dropout=False,
    stop_after=0,
    size=64,
    kind="theseus",
    **options,
):
    with scope():
        keras.utils.set_random_seed(1)

        def block():
            parts = [keras.Input((8,)), keras.layers.Dense(8, activation="tanh")]
            return keras.Sequential([*parts, *([keras.layers.Dropout(0.2)] if dropout else [])])

        head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
        predecessor, successor = [keras.Input((8,)), block(), block()], [block(), block()]
        model = BUILD[kind](predecessor, successor, head, seed=3, **options)
        if kind == "theseus":
            model = distil(model, keras.Sequential([*predecessor, head]))
        weights = {
            "frozen": [w for layer in predecessor[1:] for w in layer.weights if "kernel" in w.name],
            "trained": [w for layer in successor for w in layer.weights if "kernel" in w.name],
        }
        before = {name: [to_numpy(w) for w in ws] for name, ws in weights.items()}
        scheduler = ReplacementRateScheduler(LinearReplacement(0.3, fraction=0.5))
        log = Log(stop_after)
        result = fit(
            model,
            (X[:size], Y[:size]),
            stage=Stage(2, 0.01, clip_norm=CLIP_NORM),
            directory=directory,
            name="stage",
            batch_size=16 if size == 64 else 12,
            seed=5,
            callbacks=[scheduler, log],
            verbose=0,
            **{"validation": (X[:32], Y[:32]), **FIT[kind]},
        )
    same = {
        f"{name} as before": all((to_numpy(w) == b).all() for w, b in zip(ws, before[name]))
        for name, ws in weights.items()
    }
    pairs = [copies(w) for ws in weights.values() for w in ws] if scope is distributed else []
    return {
        **same,
        "devices agree": all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs),
        "losses": log.losses,
        "rates": log.rates,
        "val_loss": result.history.get("val_loss"),
        "weights": [w.tolist() for w in model.get_weights()],
    }


def draws(sampling, batches=24):
    """For each device, for each batch (or, of one batch, each example): was it the successor?"""
    with distributed():
        choice = BinaryRandomChoice(0.5, seed=7, sampling=sampling)
        x, y = np.zeros((32, 1), "float32"), np.ones((32, 1), "float32")
        choice.build([x.shape, y.shape])
        if BACKEND == "jax":
            states = choice.non_trainable_variables
            call = jax.jit(lambda s, x, y: choice.stateless_call([], s, [x, y], training=True))
            x, y = (jax.device_put(a, MESH.get_data_layout(a.shape).backend_layout) for a in (x, y))
            values, halves = [s.value for s in states], ([], [])
            for _ in range(batches):
                output, values = call(values, x, y)
                for half, seen in zip(halves, np.split(np.asarray(output), 2)):
                    half.append(bool(seen.all()))
            return halves

        @tf.function
        def step():
            return STRATEGY.run(lambda: choice([x[:16], y[:16]], training=True))

        if sampling == "example":
            return [[bool(v) for v in seen[:, 0]] for seen in map(np.asarray, local(step()))]
        seen = [[bool(np.asarray(part).all()) for part in local(step())] for _ in range(batches)]
        return list(zip(*seen))


def local(values):
    return STRATEGY.experimental_local_results(values)


def answers():
    """A task's outputs for texts, and what they must be."""
    texts = [np.array([number, 8, 9]) for number in range(8)]
    with distributed():
        ids, segments = (keras.Input((None,), dtype="int32") for _ in range(2))
        hidden = keras.layers.Embedding(10, 4, embeddings_initializer="normal")(ids)
        pooled = keras.layers.GlobalAveragePooling1D()(hidden)
        outputs = keras.layers.Dense(3, use_bias=False)(pooled)
        model = keras.Model([ids, segments], outputs)
        batches = Batches(Encoded(texts, np.arange(8) % 3), 4)
        found = Classification("abc").predict(model, batches)
    embeddings, kernel = model.get_weights()
    expected = embeddings[np.stack(texts)].mean(1) @ kernel
    return {"found": np.stack(found).tolist(), "expected": expected.tolist()}


def refusal(function):
    try:
        function()
    except ValueError as error:
        return str(error)


def refusals_of_batches():
    """For each order of 27 texts in batches of 12; and for one that is known by reading it."""
    texts = Encoded([np.array([number, 8, 9]) for number in range(27)], np.arange(27) % 3)
    rows = [{"token_ids": ids, "label": 0} for ids in texts.token_ids]
    known = [Batches(texts, 12, seed=seed) for seed in range(5)]
    known += [StoredBatches(rows, batch_size=12, seed=seed) for seed in range(5)]
    some = [(X[:12], Y[:12]), (X[:3], Y[:3]), (X[:12], Y[:12])]
    with distributed():
        found = [refusal(lambda data=data: BatchAccess(data, 32)) for data in known]
        return [*found, refusal(lambda: summary(BatchAccess(some, 32)))]


def main(folder, what):
    folder = Path(folder)
    if what == "replica":
        options = {"dropout": True, "sampling": "replica"}
        found = {"replica": train(folder / "replica", distributed, **options)}
        with contextlib.suppress(KeyboardInterrupt):
            train(folder / "resumed", distributed, stop_after=6, **options)
        found["resumed"] = train(folder / "resumed", distributed, **options)
    else:
        found = {}
        for kind in BUILD:
            one, two = (folder / kind / number for number in ("one", "two"))
            found[kind] = {
                "one": train(one, kind=kind),
                "two": train(two, distributed, kind=kind),
            }
        found["answers"] = answers()
        found["draws"] = {"batch": draws("batch")}
        if BACKEND == "jax":
            found["refused"] = refusal(lambda: draws("replica"))
            found["uneven"] = [
                refusal(lambda: train(folder / "uneven", distributed, size=27)),
                *refusals_of_batches(),
            ]
        else:
            found["draws"]["example"] = draws("example")
            found["draws"].update({name: draws("replica") for name in ("replica", "again")})
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
