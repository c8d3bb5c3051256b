"""What a run leaves on disk, what it does when called again, and what it refuses."""

import json

import numpy as np
import pytest
from helpers import assert_same, eager, values, weights_of
from recipes import OPTIONS, TEST, TRAIN, VALIDATION, WARM_START, X, Y, parts, whole_run
from tiny import HIDDEN, VOCAB

from bert_of_theseus import ConstantReplacement, ModulewiseReplacement, Stage, compress, schedules
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder, as_encoder, nearest_layers
from bert_of_theseus.statistics import Score, compare
from bert_of_theseus.training import NonFiniteLossError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("runs") / "run")


def test_what_is_left_on_disk(whole):
    result, _, _ = whole
    for name in ("settings.json", "report.json", "report.md", "training.png", "tradeoff.png"):
        assert (result.directory / name).stat().st_size > 0, name
    settings = json.loads((result.directory / "settings.json").read_text())
    assert settings["seed"] == 3 and settings["stages"]["theseus"]["learning_rate"] == 0.01
    assert settings["theseus"]["schedule"][0] == "LinearReplacement"
    assert {"bert-of-theseus", "numpy", "python"} <= settings["versions"].keys()
    report = json.loads((result.directory / "report.json").read_text())
    assert report["rows"] == result.rows
    # Each row's numbers are those of its model, as they are measured again.
    models = {"predecessor": result.predecessor, "successor": result.successor}
    for row in result.rows:
        assert row["kept"] == pytest.approx(row["test_score"] / result.rows[0]["test_score"])
        assert row["latency_ms"] > 0 and row["cpu_seconds"] > 0
        if row["model"] in models:
            answers = eager(models[row["model"]], TEST[0]).argmax(-1)
            assert row["test_score"] == pytest.approx((answers == TEST[1]).mean())
            assert row["parameters"] == models[row["model"]].count_params()
    assert result.report == (result.directory / "report.md").read_text().rstrip("\n")
    assert result.report.startswith(result.table) and "successor, fine-tuned" in result.table
    assert result._repr_markdown_() == result.report
    assert repr(result) == f"{result.report}\n\nSaved in {result.directory}"


def test_how_sure_the_report_is(whole):
    result, _, _ = whole
    first, *others = result.rows
    assert [row["num_examples"] for row in result.rows] == [16] * 4
    assert "difference" not in first
    models = {"predecessor": result.predecessor, "successor": result.successor}
    before, after = (
        Score(np.stack([eager(model, TEST[0]).argmax(-1) == TEST[1], np.ones(16)], axis=1))
        for model in models.values()
    )
    found = compare(before, after)
    for row in others:
        low, high = row["kept_interval"]
        assert low <= row["kept"] <= high and low < high
        low, high = row["difference_interval"]
        assert low <= row["difference"] <= high and low < high
    assert others[-1]["difference"] == pytest.approx(found.difference)
    np.testing.assert_allclose(others[-1]["difference_interval"], found.difference_interval, 0.2)
    assert "Difference to the predecessor on 16 test examples" in result.report
    assert "chosen by these examples" not in result.report


def test_a_warm_start_comes_first_and_uses_no_labels(tmp_path):
    """Others' labels change what follows, but not it."""
    options = {**OPTIONS, **WARM_START, "latency": False}
    one = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path / "one", **options)
    assert [row["model"] for row in one.rows] == [
        *("predecessor", "warm_start", "theseus", "successor")
    ]
    names = [stage.name for stage in one.stages]
    assert names == [row["model"] for row in one.rows]
    assert one.stages[1].score is None and one.stages[1].history["loss"][-1] > 0
    assert "successor after its warm start" in one.report
    again = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path / "one", **options)
    assert_same(values(one.successor.weights), values(again.successor.weights))
    options["predecessor_stage"] = None
    runs = {"fixed": (Y, None), "other": (1 - Y, {1: 5.0})}
    fixed, other = (
        compress(*parts(), (X, labels), directory=tmp_path / name, class_weight=weights, **options)
        for name, (labels, weights) in runs.items()
    )
    history = [result.stages[0].history["loss"] for result in (fixed, other)]
    assert history[0] == history[1]
    assert fixed.stages[1].history["loss"] != other.stages[1].history["loss"]


class Kill(keras.callbacks.Callback):
    """Ends the run after so many batches; counts them."""

    def __init__(self, batches=None):
        super().__init__()
        self.batches, self.seen = batches, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.batches:
            raise KeyboardInterrupt


def test_a_warm_start_that_is_killed_goes_on(tmp_path):
    """To the same weights, with the draws and the rates of a run that never stopped."""
    options = {**OPTIONS, **WARM_START, "predecessor_stage": None, "successor_stage": None}
    options |= {"warm_start_stage": Stage(2, 0.01, evaluations_per_epoch=2), "latency": False}
    options["theseus_stage"] = Stage(1, 0.01)

    def run(name, batches=None):
        kill = Kill(batches)
        given = {**options, "directory": tmp_path / name, "callbacks": {"warm_start": [kill]}}
        return compress(*parts(), TRAIN, VALIDATION, **given), kill

    whole, every = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", batches=5)  # the first batch of the third round
    assert {path.name for path in (tmp_path / "killed").glob("*/")} == {"warm_start"}
    again, rest = run("killed")
    assert (every.seen, rest.seen) == (8, 4)
    for one, other in zip(whole.stages, again.stages, strict=True):
        assert {**one.history, "seconds": None} == {**other.history, "seconds": None}
    assert_same(values(whole.successor.weights), values(again.successor.weights))


def test_the_nearest_layers_are_those_of_the_fine_tuned_predecessor(tmp_path):
    options = {**OPTIONS, "initialize": "nearest", "latency": False}
    result = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path / "found", **options)
    layers = result.settings["initial_layers"]
    fitted = as_encoder([keras.Input((8,)), *result.predecessor.layers[1:5]])
    assert layers == nearest_layers(fitted, [X[:64]], 2)
    options["initialize"] = layers
    given = compress(*parts(), TRAIN, VALIDATION, directory=tmp_path / "given", **options)
    assert_same(values(result.successor.weights), values(given.successor.weights))
    saved = json.loads((tmp_path / "found" / "settings.json").read_text())
    assert saved["initial_layers"] == layers and saved["theseus"]["initialize"] == "nearest"


def share_of_first(model, data):
    """A score of each example, which the report knows if it is told."""
    return Score(np.stack([eager(model, data[0])[:, 0], np.ones(len(data[0]))], axis=1))


def number_alone(model, data):
    return float(share_of_first(model, data))


@pytest.mark.parametrize("score", [None, share_of_first, number_alone])
def test_what_a_report_on_validation_data_says(score, tmp_path):
    options = {**OPTIONS, "score": score, "predecessor_stage": None, "successor_stage": None}

    def run():
        return compress(*parts(), TRAIN, VALIDATION, directory=tmp_path, latency=False, **options)

    result = run()
    row = result.rows[-1]
    if score is not number_alone:
        low, high = row["difference_interval"]
        assert low <= row["difference"] <= high
        assert "on 16 validation examples" in result.report
        assert "The weights were chosen by these examples" in result.report
        assert type(row["score"]) is float
    else:  # of a number alone nothing is known
        assert "difference_interval" not in row and "num_examples" not in row
        assert result.report == result.table
    before = (tmp_path / "report.md").read_text()
    again = run()
    names = ("score", "kept", "difference", "difference_interval", "kept_interval")
    for one, other in zip(again.rows, result.rows):
        assert [one.get(name) for name in names] == [other.get(name) for name in names]
    assert (tmp_path / "report.md").read_text() == before


def settings_on_disk(directory):
    """What `compress` is to be told, of the settings that it left."""
    settings = json.loads((directory / "settings.json").read_text())
    names = ("batch_size", "monitor", "loss", "metrics", "from_logits", "seed")
    options = {name: settings[name] for name in names} | settings["theseus"] | settings["successor"]
    options.update({f"{k}_stage": v and Stage(**v) for k, v in settings["stages"].items()})
    options["warm_start_schedule"] = settings["warm_start"]["schedule"]
    options["warm_start_noise"] = settings["warm_start"]["noise"]
    for name in ("warm_start_schedule", "schedule"):
        kind, config = options[name]
        options[name] = getattr(schedules, kind).from_config(config)
    assert options.pop("distillation") is None
    return {**options, "directory": directory, "verbose": 0}


def test_the_same_call_again_trains_nothing(whole):
    result, _, _ = whole
    trained = []
    spy = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: trained.append(1))
    options = {**settings_on_disk(result.directory), "test": TEST, "latency": False}
    again = compress(*parts(), TRAIN, VALIDATION, callbacks=[spy], **options)
    assert not trained
    for model in ("successor", "predecessor"):
        one, other = (eager(getattr(r, model), TEST[0]) for r in (result, again))
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"predecessor holds .*other settings .*seed: 3, now 4"):
        compress(*parts(), TRAIN, VALIDATION, **{**options, "seed": 4})
    assert settings_on_disk(result.directory)["seed"] == 3
    with pytest.raises(ValueError, match=r"theseus holds .*other settings .*schedule: .*0\.25"):
        compress(*parts(), TRAIN, VALIDATION, **{**options, "schedule": 0.25})


@pytest.mark.parametrize(
    "steps, given, expected", [(2, None, 0.0), (2, 0.5, 0.5), (1000, None, 0.2), (1000, 0.0, 0.0)]
)
def test_long_warm_starts_have_noise_if_it_is_not_given(steps, given, expected, tmp_path):
    def on_train_begin(logs):
        raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_train_begin=on_train_begin)
    options = {**OPTIONS, **WARM_START, "predecessor_stage": None, "initialize": None}
    options |= {"warm_start_stage": Stage(steps=steps), "warm_start_noise": given}
    with pytest.raises(KeyboardInterrupt):
        options |= {"directory": tmp_path, "callbacks": [stop]}
        compress(*parts(), TRAIN, VALIDATION, **options)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["warm_start"]["noise"] == expected


def test_another_warm_start_is_another_run(tmp_path):
    options = {**OPTIONS, **WARM_START, "predecessor_stage": None, "initialize": None}
    options |= {"directory": tmp_path, "latency": False}

    def run(models, **changes):
        return compress(*models, TRAIN, VALIDATION, **{**options, **changes})

    run(parts())
    with pytest.raises(ValueError, match=r"warm_start holds .*schedule: .*LinearR.*0\.25"):
        run(parts(), warm_start_schedule=0.25)
    with pytest.raises(ValueError, match=r"warm_start holds .*noise: 0\.0, now 0\.5"):
        run(parts(), warm_start_noise=0.5)
    # Not part of the warm start's model, but of the weights that it leaves.
    predecessor, successor, head = parts()
    head.set_weights([2.0 * weight for weight in head.get_weights()])
    with pytest.raises(ValueError, match=r"warm_start holds .*other weights"):
        run((predecessor, successor, head))


def test_a_fitted_predecessor_is_not_trained(tmp_path):
    predecessor, successor, head = parts()
    before = [values(layer.weights) for layer in [*predecessor[1:], head]]
    given = values(weights_of(successor))
    result = compress(
        predecessor,
        successor,
        head,
        TRAIN,
        VALIDATION,
        directory=tmp_path,
        schedule=ConstantReplacement(1.0),
        train_embeddings_and_head=False,
        latency=False,
        **{**OPTIONS, "predecessor_stage": None, "initialize": None},
    )
    assert [stage.name for stage in result.stages] == ["theseus", "successor"]
    for layer, values_before in zip([*predecessor[1:], head], before, strict=True):
        assert_same(values(layer.weights), values_before)
    # The modules alone were trained.
    assert_same(values(result.classifier.weights), values(head.weights))
    now = values(weights_of(successor))
    assert any(not np.array_equal(one, other) for one, other in zip(now, given, strict=True))
    # The same call with another predecessor is another training.
    other = parts(seed=2)
    with pytest.raises(ValueError, match=r"other settings .*frozen weights"):
        compress(
            *other,
            TRAIN,
            VALIDATION,
            directory=tmp_path,
            schedule=ConstantReplacement(1.0),
            train_embeddings_and_head=False,
            latency=False,
            **{**OPTIONS, "predecessor_stage": None, "initialize": None},
        )


@pytest.mark.parametrize("stage", ["theseus", "successor"])
@pytest.mark.parametrize("whole_successor", [True, False])
def test_a_stage_that_does_harm_gives_back_the_weights_before(tmp_path, whole_successor, stage):
    begun = []

    class Begin(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun[:] = values(weights_of(successor))

    def score(model, data):
        """Falls with every step away from what the stage begins with."""
        now = values(weights_of(successor))
        return -float(sum(np.abs(one - other).sum() for one, other in zip(now, begun)))

    predecessor, successor, head = parts()
    result = compress(
        predecessor,
        successor,
        head,
        TRAIN,
        VALIDATION,
        directory=tmp_path,
        train_embeddings_and_head=whole_successor,
        score=score,
        callbacks={stage: [Begin()]},
        **{**OPTIONS, **WARM_START},
    )
    names = [stage.name for stage in result.stages]
    for harmful in result.stages[names.index(stage) :]:
        assert all(later < 0 for later in harmful.history["val_score"])
        assert harmful.best_step == 0 and harmful.score == 0
    assert_same(values(weights_of(successor)), begun)
    assert [row["score"] for row in result.rows] == [0, 0, 0, 0]


def test_with_losses_of_distillation(tmp_path, capsys):
    result = compress(
        *parts(),
        TRAIN,
        VALIDATION,
        directory=tmp_path,
        distillation_weight=1.0,
        execution="dense",
        gate="blend",
        hidden_loss_weight=1.0,
        monitor="val_loss",
        **{
            **OPTIONS,
            "predecessor_stage": None,
            "theseus_stage": Stage(1, 0.01),
            "initialize": range(2),
            "verbose": 2,
        },
    )
    # Both stages learn from what the predecessor has answered once.
    said = [line for line in capsys.readouterr().out.splitlines() if "answer" in line]
    assert said == ["The teacher answers 64 examples"]
    answers = np.load(tmp_path / "answers" / "answers.npy")
    np.testing.assert_allclose(answers, eager(result.predecessor, X[:64]), atol=1e-5)
    assert [*tmp_path.rglob("answers.npy")] == [tmp_path / "answers" / "answers.npy"]
    # The terms are part of the loss in training, and not of the loss on the validation data.
    history = result.stages[0].history
    assert history["loss"][0] > history["val_loss"][0]
    # The lowest loss is the best, and no share of the predecessor's is kept.
    assert result.stages[1].score == min(result.stages[1].history["val_loss"])
    assert all(row["kept"] is None for row in result.rows)
    assert result.settings["theseus"]["initialize"] == [0, 1]
    assert (tmp_path / "tradeoff.png").is_file()


def test_a_loss_that_is_not_finite_is_named_with_its_rate(tmp_path):
    x = np.where(np.arange(64)[:, None] < 32, X[:64], np.inf)
    problem = r"became (nan|inf) at step 3 of stage 'theseus', at replacement rate 0\.5; there is"
    with pytest.raises(NonFiniteLossError, match=problem):
        compress(
            *parts(),
            [(x[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)],
            directory=tmp_path,
            schedule=ModulewiseReplacement(2, start=0.0, steps=4),
            **{**OPTIONS, "predecessor_stage": None},
        )


def test_no_room_for_the_whole_run(tmp_path):
    resource = pytest.importorskip("resource")
    predecessor, successor, head = parts()
    count = sum(layer.count_params() for layer in predecessor[1:])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for the first model, and not for all that follows.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2 * count, limits[1]))
    try:
        with pytest.raises(OSError, match=r"need about .* MB in .*a, which cannot be written"):
            compress(
                predecessor, successor, head, TRAIN, VALIDATION, directory=tmp_path / "a", **OPTIONS
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize(
    "options, error, problem",
    [
        ({"exeuction": "dense"}, TypeError, "takes no 'exeuction'.*execution"),
        ({"execution": "eager"}, ValueError, "`execution` must be one of"),
        ({"gate": "blend"}, ValueError, 'execution="dense"'),
        ({"schedule": "linear"}, TypeError, "`schedule` must be a function"),
        ({"warm_start_schedule": "linear"}, TypeError, "`warm_start_schedule` must be a function"),
        ({"warm_start_schedule": lambda step: 1.5}, ValueError, r"in \[0, 1\].*Received: 1.5"),
        (
            {"warm_start_schedule": ModulewiseReplacement(2, fraction=0.5)},
            ValueError,
            "1 choices, and 2 rates",
        ),
        ({"warm_start_noise": 20}, ValueError, "`warm_start_noise` must be a number in"),
        ({"initialize": "nearst"}, ValueError, "`initialize` must be one of .*nearest', 'first'"),
        ({"module_map": [[0], [1]]}, ValueError, "`module_map` must hold 2"),
        ({"schedule": lambda step: 1.5}, ValueError, r"in \[0, 1\].*Received: 1.5"),
        ({"schedule": ModulewiseReplacement(3, fraction=0.5)}, ValueError, "2 choices, and 3 rat"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, options, error, problem):
    with pytest.raises(error, match=problem):
        compress(*parts(), TRAIN, VALIDATION, directory=tmp_path / "a", **{**OPTIONS, **options})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("unlike", ["width", "layer"])
def test_unlike_layers_need_another_choice_than_the_nearest(tmp_path, unlike):
    """Which is said before anything is trained; chosen by hand, they may be whatever fits."""
    predecessor, successor, head = parts()
    x = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu")(x)
    wide = keras.Model(x, keras.layers.Add()([x, keras.layers.Dense(8)(hidden)]))
    predecessor[4] = {"width": wide, "layer": keras.layers.LayerNormalization()}[unlike]
    models = predecessor, successor, head, TRAIN, VALIDATION
    options = {**OPTIONS, **WARM_START, "latency": False, "directory": tmp_path / "a"}
    problem = r'nearest .* all layers are alike.* layer 0 with .*, and layer 3 with .*"first"'
    with pytest.raises(ValueError, match=problem):
        compress(*models, **options)
    assert not (tmp_path / "a").exists()
    result = compress(*models, **{**options, "initialize": "first"})
    assert result.settings["initial_layers"] == [0, 1] and len(result.rows) == 4


# A successor of another kind, with embeddings that stand still until the last stage.


def embedded(number):
    inputs = keras.Input((5,), dtype="int32")
    layers = [keras.layers.Dense(HIDDEN, activation="tanh") for _ in range(number)]
    return StackEncoder(layers, inputs=inputs, embedding=keras.layers.Embedding(VOCAB, HIDDEN))


@pytest.mark.parametrize("train_ends", [True, False])
def test_a_successor_of_another_kind(train_ends, tmp_path):
    keras.utils.set_random_seed(0)
    predecessor = embedded(4)
    pooled = keras.layers.GlobalAveragePooling1D()
    head = [keras.Input((5, HIDDEN)), pooled, keras.layers.Dense(3, activation="softmax")]
    x = np.random.default_rng(0).integers(0, VOCAB, (16, 5)).astype("int32")
    before = values(predecessor._embedding.weights)
    result = compress(
        predecessor,
        [keras.layers.Conv1D(HIDDEN, 3, padding="same") for _ in range(2)],
        keras.Sequential(head),
        (x, x[:, 0] % 3),
        directory=tmp_path,
        initialize=None,
        predecessor_stage=None,
        warm_start_stage=Stage(4, 0.01, weight_decay=0.0),
        warm_start_schedule=0.0,
        warm_start_noise=0.0,
        theseus_stage=Stage(1, 0.01, weight_decay=0.0),
        successor_stage=Stage(1, 0.01, weight_decay=0.0),
        train_embeddings_and_head=train_ends,
        batch_size=8,
        latency=False,
        verbose=0,
    )
    assert_same(before, values(predecessor._embedding.weights))
    # Layers of another kind learn the modules' work too.
    assert result.stages[0].name == "warm_start"
    assert result.stages[0].history["loss"] == sorted(result.stages[0].history["loss"])[::-1]
    # No more of it changes than is meant to: the copies of the embedding, in the last stage.
    own = [w for w in result.successor.weights if tuple(w.shape) == (VOCAB, HIDDEN)]
    assert len(own) == 1
    assert (values(own)[0] != before[0]).any() == train_ends
    assert result.successor.count_params() == sum(w.size for w in values(result.successor.weights))
