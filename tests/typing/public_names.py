"""Uses the public names as a type checker and an editor see them; `make lint` checks it."""

from __future__ import annotations

import bert_of_theseus

version: str = bert_of_theseus.__version__
