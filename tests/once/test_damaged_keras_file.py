"""A damaged Keras file is refused, or says the same as the whole one."""

import numpy as np
import pytest
from damage import damaged
from tiny_texts import make_model, texts

from bert_of_theseus.deploy import open_runtime


@pytest.mark.parametrize("places", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_damaged_file(places, tmp_path):
    make_model().save(tmp_path / "a.keras")
    batch = [ids.astype("int32") for ids in texts(9, 4)]
    expected = open_runtime(tmp_path / "a.keras")(*batch)
    content = (tmp_path / "a.keras").read_bytes()
    for place in range(0, len(content), len(content) // places):
        (tmp_path / "a.keras").write_bytes(damaged(content, "cut", place))
        with pytest.raises(ValueError, match=r"a\.keras' cannot be loaded"):
            open_runtime(tmp_path / "a.keras")
        (tmp_path / "a.keras").write_bytes(damaged(content, "flip", place, place % 8))
        try:
            found = open_runtime(tmp_path / "a.keras")(*batch)
        except ValueError as error:
            assert "a.keras' cannot be loaded" in str(error)
        else:  # a zip file has bytes that say nothing, such as times
            np.testing.assert_array_equal(found, expected)
