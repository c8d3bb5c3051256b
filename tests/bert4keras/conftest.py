"""bert4keras' tests: its set-up, which comes before any of its modules, and shared fixtures."""

import bert_of_theseus.bert4keras  # noqa: F401, I001  must come first
import bert_helpers
import pytest


@pytest.fixture
def untraced():
    with bert_helpers.untraced():
        yield
