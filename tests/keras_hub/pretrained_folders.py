"""Tables of texts for the models of `tiny_transformers`."""

import csv
import random

from tiny_transformers import LABELS, texts


def write_texts(path, count, seed=0, labels=LABELS):
    """Rows with labels at random, so that no model is right on all of them."""
    rng = random.Random(seed)
    rows = [(text, rng.choice(labels)) for text in texts(count, seed, longest=30)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return rows
