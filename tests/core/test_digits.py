"""The example without text: a residual network on scikit-learn's digits."""

import importlib.util
import pathlib

import pytest

from bert_of_theseus.backend import BACKEND

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "digits.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("digits_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(BACKEND != "torch", reason="once is enough, and PyTorch has nothing to trace")
def test_two_blocks_keep_what_six_know(script, capsys):
    (scores,) = script.main(["--seeds", "0"])
    assert scores["predecessor"] > 0.95
    assert scores["successor"] > 0.97 * scores["predecessor"]
    assert scores["successor"] > scores["direct"]
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
