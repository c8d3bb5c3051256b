"""The example without text: a residual network on scikit-learn's digits."""

import importlib.util
import pathlib
import statistics

import pytest

from bert_of_theseus.backend import BACKEND, KERAS_2

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "digits.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("digits_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    BACKEND != "tensorflow" or KERAS_2,
    reason="once is enough, and TensorFlow is the quickest",
)
def test_two_blocks_keep_what_six_know(script, capsys):
    results = script.main([])
    assert len(results) == 5
    mean = {name: statistics.fmean(scores[name] for scores in results) for name in script.TITLES}
    assert mean["predecessor"] > 0.95
    assert mean["successor"] >= 0.985 * mean["predecessor"]
    assert mean["successor"] > mean["direct"]
    table = capsys.readouterr().out
    assert all(title in table for title in script.TITLES.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--labels", "5"], "--labels must be from 32 to 1000"),
        (["--steps", "0", "1", "1"], "--steps must be at least 1"),
        (["--direct-rate", "2"], "Learning rates must be between 0 and 1"),
    ],
)
def test_bad_arguments(script, arguments, message, capsys):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
