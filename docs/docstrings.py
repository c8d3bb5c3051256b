"""Extension of Griffe, which reads the sources for the API pages: Keras' sections of docstrings.

Griffe knows Google's "Args", "Raises" and "Attributes". The other sections become Markdown here.
"""

import re
import textwrap

import griffe

INDENTED = r"((?:    .*\n|\n(?=    ))+)"
SECTION = re.compile(rf"^(Call arguments|Returns|References):\n{INDENTED}", re.M)
EXAMPLE = re.compile(r"^Example:\n\n((?:>>>|\.\.\.)(?:.+\n)+)", re.M)
CODE = re.compile(rf"(?<=\n\n){INDENTED}")
ITEM = re.compile(r"^(\w[^:\n]*): ", re.M)


def to_markdown(match):
    name, text = match.group(1), textwrap.dedent(match.group(2))
    if name == "Call arguments":
        text = ITEM.sub(r"- **`\1`**: ", text)
    return f"**{name}:**\n\n{text}\n"


class KerasSections(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is None:
            return
        text = SECTION.sub(to_markdown, f"{obj.docstring.value}\n")
        text = EXAMPLE.sub(r"**Example:**\n\n```pycon\n\1```\n", text)
        if obj.is_module:  # an indented block after a list would be part of the list
            text = CODE.sub(lambda m: f"```python\n{textwrap.dedent(m.group(1))}```\n", text)
        obj.docstring.value = re.sub(r"^Example:$", "**Example:**", text, flags=re.M).rstrip()
