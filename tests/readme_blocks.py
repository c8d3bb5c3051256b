"""The READMEs' code, found by a line of it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", "README.zh.md"]


def readme_block(line, name="README.md"):
    """The code of the only Python block in the file `name` that has `line` in it.

    Blocks move, and headings differ between the languages; what a test is about does not.
    """
    text = (ROOT / name).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    found = [block for block in blocks if line in map(str.strip, block.splitlines())]
    assert len(found) == 1, f"{len(found)} Python blocks of {name} have the line {line!r}"
    return found[0]
