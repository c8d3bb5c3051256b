"""The example without text: a residual network on scikit-learn's digits."""

import statistics
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "digits.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


@pytest.mark.slow
@pytest.mark.only("tensorflow")  # the quickest
def test_two_blocks_keep_what_six_know(script, capsys):
    results = script.main([])
    assert len(results) == 5
    mean = {name: statistics.fmean(scores[name] for scores in results) for name in script.TITLES}
    assert mean["predecessor"] > 0.95
    assert mean["successor"] >= 0.985 * mean["predecessor"]
    assert mean["successor"] > mean["direct"]
    table = capsys.readouterr().out
    assert all(title in table for title in script.TITLES.values())


def test_a_few_steps(script, capsys):
    results = script.main(["--seeds", "0", "--labels", "320", "--steps", "60", "20", "10"])
    assert len(results) == 1 and results[0].keys() == script.TITLES.keys()
    assert 0.6 < results[0]["predecessor"] <= 1  # a tenth by chance
    assert 0.3 < results[0]["successor"] <= 1
    table = capsys.readouterr().out
    assert all(title in table for title in script.TITLES.values())
    assert "test images, 320 labels to compress with, seeds 0; " in table


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
