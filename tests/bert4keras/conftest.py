"""bert4keras' tests: its set-up, which comes before any of its modules, and shared fixtures."""

from pathlib import Path

import bert_of_theseus.bert4keras  # noqa: F401  must come first

# isort: split
import bert_helpers
import pytest

OTHERS_WARNINGS = (
    # bert4keras uses one initializer for several weights of a layer.
    "ignore:The initializer TruncatedNormal is unseeded:UserWarning:tf_keras.*",
    # TensorFlow, of the functions of its own that it compiles where nothing else is.
    "ignore:Even though the .tf.config.experimental_run_functions_eagerly:UserWarning:tensorflow.*",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for line in OTHERS_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture
def untraced():
    with bert_helpers.untraced():
        yield
