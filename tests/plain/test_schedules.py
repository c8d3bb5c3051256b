"""Laws of the schedules, which need no Keras."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from bert_of_theseus import schedules as s

ALL = [
    s.ConstantReplacement(0.3),
    s.ConstantReplacement(0.3, steps=10),
    s.LinearReplacement(0.2, steps=10),
    s.CosineReplacement(0.2, 0.8, steps=10),
    s.AntiCurriculumReplacement(steps=10),
    s.PiecewiseReplacement([(0, 0.1), (0.5, 0.2), (1, 1)], steps=10),
    s.ModulewiseReplacement(3, steps=9),
    s.ModulewiseReplacement(np.int64(3), start=np.float32(0.5), steps=np.int64(9)),
]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_rates_are_rates_and_configs_round_trip(schedule):
    again = type(schedule).from_config(json.loads(json.dumps(schedule.get_config())))
    assert again == schedule
    for step in range(25):
        rates = schedule(step)
        assert rates == again(step)
        assert all(0 <= r <= 1 for r in (rates if isinstance(rates, list) else [rates]))


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (s.ConstantReplacement(0.3), 10**6, 0.3),
        (s.ConstantReplacement(0.3, steps=10), 9, 0.3),
        (s.ConstantReplacement(0.3, steps=10), 10, 1.0),
        (s.LinearReplacement(0.2, steps=10), 0, 0.2),
        (s.LinearReplacement(0.2, steps=10), 5, 0.6),
        (s.LinearReplacement(0.2, steps=10), 11, 1.0),
        (s.CosineReplacement(0.0, steps=10), 5, 0.5),
        (s.CosineReplacement(0.0, steps=4), 1, (1 - math.sqrt(0.5)) / 2),
        (s.AntiCurriculumReplacement(steps=10), 0, 1.0),
        (s.AntiCurriculumReplacement(steps=10), 10, 0.0),
        (s.PiecewiseReplacement([(0.2, 0.1), (0.6, 0.5)], steps=10), 1, 0.1),
        (s.PiecewiseReplacement([(0.2, 0.1), (0.6, 0.5)], steps=10), 4, 0.3),
        (s.PiecewiseReplacement([(0.2, 0.1), (0.6, 0.5)], steps=10), 9, 0.5),
    ],
    ids=repr,
)
def test_values(schedule, step, rate):
    assert schedule(step) == pytest.approx(rate)


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_modules_take_turns(order):
    schedule = s.ModulewiseReplacement(3, order, start=0.1, end=0.9, steps=30)
    sequence = [schedule(step)[:: 1 if order == "bottom-up" else -1] for step in (0, 15, 30)]
    assert sequence[0] == pytest.approx([0.1, 0.1, 0.1])
    assert sequence[1] == pytest.approx([0.9, 0.5, 0.1])
    assert sequence[2] == pytest.approx([0.9, 0.9, 0.9])


def test_a_fraction_is_bound_to_the_number_of_steps():
    schedule = s.LinearReplacement(0.0, fraction=0.5)
    with pytest.raises(ValueError, match="does not know the number of steps"):
        schedule(0)
    assert schedule.bind(200) == s.LinearReplacement(0.0, steps=100)
    assert s.ConstantReplacement(0.5, fraction=0.25).bind(8)(2) == 1.0
    config = json.dumps(s.LinearReplacement(0.0, fraction=np.float32(0.5)).get_config())
    assert s.LinearReplacement.from_config(json.loads(config)) == schedule


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: s.LinearReplacement(1.5, steps=3), r"`start` must be .* 1.5"),
        (lambda: s.LinearReplacement(float("nan"), steps=3), "nan"),
        (lambda: s.LinearReplacement(0.5), "either `steps` or `fraction`"),
        (lambda: s.LinearReplacement(0.5, steps=3, fraction=0.5), "either `steps` or `fraction`"),
        (lambda: s.LinearReplacement(0.5, steps=0), "at least 1. Received: 0"),
        (lambda: s.LinearReplacement(0.5, fraction=1.5), r"\(0, 1\]. Received: 1.5"),
        (lambda: s.LinearReplacement(0.5, fraction=True), r"\(0, 1\]. Received: True"),
        (lambda: s.PiecewiseReplacement([(0.5, 0), (0.2, 1)], steps=3), "rising"),
        (lambda: s.PiecewiseReplacement([], steps=3), "rising"),
        (lambda: s.PiecewiseReplacement([0.1, 0.9], steps=3), r"rising.*Received: \[0.1, 0.9\]"),
        (lambda: s.PiecewiseReplacement([(0, 0.1, 1)], steps=3), "rising"),
        (lambda: s.PiecewiseReplacement([(0, 1.1)], steps=3), "rate of a point.*1.1"),
        (lambda: s.ModulewiseReplacement(0, steps=3), "`num_modules`"),
        (lambda: s.ModulewiseReplacement(2, "sideways", steps=3), "sideways"),
        (lambda: s.LinearReplacement(0.5, steps=3)(-1), "0 or more"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_no_keras_is_imported():
    code = "import bert_of_theseus.schedules, sys; print([m for m in sys.modules if 'keras' in m])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
