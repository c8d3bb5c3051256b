"""Extension of Griffe, which reads the sources for the API pages: Keras' sections of docstrings.

Griffe knows Google's sections. "Example" becomes its "Examples", whose `>>>` lines are code, and
"Call arguments", Keras' own, becomes a list.
"""

import re

import griffe

CALL_ARGUMENTS = re.compile(r"^Call arguments:\n((?:    .*\n|\n(?=    ))+)", re.M)
ITEM = re.compile(r"^    (\S[^:]*): ", re.M)


def to_list(match):
    items = ITEM.sub(r"- **`\1`**: ", match.group(1))
    return f"**Call arguments:**\n\n{items}\n"


class KerasSections(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = f"{obj.docstring.value}\n"
            text = CALL_ARGUMENTS.sub(to_list, text)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M).rstrip()
