"""Hooks of MkDocs: formulas, pages from outside `docs/`, and what would spoil a page unnoticed."""

import posixpath
import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site too.
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/RESULTS.md")

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")
OUTSIDE = re.compile(
    r'<(?:script|img|iframe|source|link(?![^>]*rel="canonical"))\b[^>]*\b(?:src|href)="(?:https?:)?//'
)


def on_config(config):
    """Renders fences of the language `math`, which GitHub knows too, as MathML."""

    def format(source, language, css_class, options, md, **kwargs):
        return latex2mathml.converter.convert(source, display="block")

    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences.setdefault("custom_fences", []).append(
        {"name": "math", "class": "math", "format": format}
    )
    return config


def on_files(files, config):
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links between files of the repository into links between pages."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in PAGES else f"docs/{here}")

    def to_page(match):
        target = posixpath.normpath(posixpath.join(folder, match.group(1)))
        inside = target.removeprefix("docs/") if target not in PAGES else target
        return posixpath.relpath(inside, posixpath.dirname(here) or ".")

    return LINK.sub(to_page, markdown)


def on_page_content(html, page, config, files):
    """Names that an API page lists must be in the module: MkDocs leaves others out silently."""
    module = None
    for line in page.markdown.splitlines():
        if line.startswith("::: "):
            module = line.removeprefix("::: ")
        elif module and re.match(r" +- \w+$", line):
            name = f"{module}.{line.strip(' -')}"
            if f'id="{name}"' not in html:
                raise PluginError(f"{page.file.src_uri} names {name}, which is not there")
    return html


def on_post_page(output, page, config):
    match = OUTSIDE.search(output)
    if match:
        raise PluginError(f"{page.file.src_uri} loads from another server: {match.group()}")
    return output
