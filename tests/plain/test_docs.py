"""READMEs and docs/: every block is run somewhere, what they name is there, lengths are kept."""

import re

import pytest
from docs_blocks import CHAINS, PAGES, ROOT, read_blocks
from test_architecture import ORDER

OTHER_PAGES = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")]
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def test_every_block_has_a_name_or_a_reason_not_to_run():
    unsaid = [relative(page) for page in PAGES for kind, *_ in read_blocks(page) if kind is None]
    assert not unsaid


def test_every_named_block_is_run_by_one_test():
    texts = {}
    for page in PAGES:
        for kind, name, code in read_blocks(page):
            if kind == "name":
                texts.setdefault(name, set()).add(code)
    assert {name: len(codes) for name, codes in texts.items()} == dict.fromkeys(texts, 1)
    run = [name for chain in CHAINS.values() for name in chain]
    assert sorted(run) == sorted(texts)
    for test, chain in CHAINS.items():
        text = (ROOT / test).read_text(encoding="utf-8")
        missing = [name for name in chain if f'"{name}"' not in text]
        assert not missing, test


def test_readmes_are_short_and_say_the_same():
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")
    )
    assert english.count("\n") < 150
    for pattern in (
        r"^#+ ",
        r"^\| .*\|$",
        r"^```\w*$",
        r"^pip install \S+",
        r"\]\(((?!README)[^)]+)\)",
        r"\d+\.\d+ ± \d+\.\d+|\d+\.\d %",
    ):
        found = [re.findall(pattern, text, re.M) for text in (english, chinese)]
        if pattern.endswith("|$"):
            found = [len(rows) for rows in found]
        assert found[0] == found[1]


def anchors(page):
    """As GitHub makes them of headings, of which the site's are the same here."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=relative)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor[1:] in anchors(path), target + anchor


def test_figures_of_the_readme_stand_in_the_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d+\.\d+ ± \d+\.\d+", readme)
    assert len(figures) == 3
    for figure in figures:
        assert figure in results


def test_times_of_the_readme_are_those_of_deployment():
    """The table of other programs: each of its times stands in one row of the longer one."""
    readme, deployment = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/deployment.md")
    )
    section = readme.split("## Beside other programs")[1].split("##")[0]
    rows = [re.findall(r"[^|]+", line) for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 7
    longer = re.findall(r"^\| .*\|$", deployment.split("### Beside other")[1], re.M)
    for name, *times in rows[2:]:
        name = name.strip(" *").split()[0]
        those = {word for row in longer if row.startswith(f"| {name}") for word in row.split()}
        assert {time.strip(" *") for time in times} - {""} <= those


def test_a_readers_way_is_seven_files_of_fewer_than_1500_lines():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"^\d\. `([^`]+)`", text, re.M)
    assert len(files) == 7
    lines = [(ROOT / name).read_text(encoding="utf-8").count("\n") for name in files]
    assert sum(lines) < 1500, dict(zip(files, lines))


def test_architecture_names_every_module_in_the_order_of_imports():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text[: text.index("Around the package")], re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row)]
    assert named == ORDER
