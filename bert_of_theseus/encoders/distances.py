"""The buckets of DeBERTa's relative positions. Needs NumPy alone."""

import numpy as np


def distance_buckets(size: int, max_positions: int) -> np.ndarray:
    """The bucket of each distance: near ones have their own, farther ones share, in log steps.

    In the precision and the order of `transformers`, as rounding decides at the edges. All beyond
    the longest text are in the last bucket, `size`.

    Args:
        size: Integer, the number of buckets on a side.
        max_positions: Integer, the number of tokens that a text may have.

    Returns:
        Array of the buckets of the distances 0, 1, ..., `2 * max_positions - 1`.
    """
    middle = np.float32(size // 2)
    distances = np.arange(2 * max_positions, dtype="float32")
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.log(np.maximum(distances, middle) / middle)
        far /= np.log(np.float32((max_positions - 1) / middle))
        far = np.minimum(np.ceil(far * (middle - 1)) + middle, size)
    return np.where(distances <= middle, distances, far).astype("int32")
