"""The table of benchmarks/quality.py, of results that are known: figures and their intervals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
EXAMPLES = 400


@pytest.fixture(scope="module")
def quality_table(load_script):
    return load_script(BENCHMARKS / "quality_table.py")


@pytest.fixture(scope="module")
def scripts(load_script):
    """Of quality.py and iflytek.py, by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: load_script(BENCHMARKS / f"{name}.py") for name in ("quality", "iflytek")}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def iflytek(scripts):
    return scripts["iflytek"]


@pytest.fixture
def quality(scripts):
    return scripts["quality"]


def write(quality_table, output, variant, layers, seed, right, kind="compressed", **more):
    """A record and its outcomes as `Study` writes them."""
    folder = output / f"seed-{seed}" / f"{variant}-{layers}".replace(":", "_")
    folder.mkdir(parents=True)
    rows = np.stack([right, np.ones(len(right))], axis=1)
    np.save(folder / quality_table.OUTCOMES, rows.astype("float32"))
    entry = {"variant": variant, "kind": kind, "what": "", "layers": layers, "seed": seed}
    entry |= {"validation": float(right.mean()), "dev": float(right.mean())}
    (folder / quality_table.RECORD).write_text(json.dumps({**entry, **more}))


def outcomes(seed, *shares):
    """Of several models, on the same examples: what is hard for one is hard for the others."""
    rng = np.random.default_rng(seed)
    hard = rng.random(EXAMPLES)
    return [hard + 0.1 * rng.normal(size=EXAMPLES) < share for share in shares]


@pytest.fixture(scope="module")
def study(quality_table, tmp_path_factory):
    """Two seeds: 12 layers; 6 layers directly at two learning rates, by the article and by us."""
    output = tmp_path_factory.mktemp("study")
    for seed in range(2):
        best, direct, slow, article, ours = outcomes(seed, 0.9, 0.7, 0.6, 0.75, 0.85)
        given = {"predecessor": (best, 12), "direct:learning_rate=1e-5": (slow, 6)}
        given |= {"direct": (direct, 6), "article": (article, 6), "ours": (ours, 6)}
        for number, (variant, (right, layers)) in enumerate(given.items(), start=1):
            kind = variant.split(":")[0]
            kind = kind if kind in ("predecessor", "direct") else "compressed"
            spent = {"cpu_seconds": 100.0 * number * (seed + 1)}
            write(quality_table, output, variant, layers, seed, right, kind, **spent)
    return output


def parsed(table):
    header, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert {len(row) for row in rows} == {len(header)} == {len(rule)}
    return {(row[1], int(row[0])): dict(zip(header, row)) for row in rows}


def test_a_row_for_each_model(quality_table, study):
    entries = quality_table.read(study)
    names = ["direct", "article", "ours"]
    rows = parsed(quality_table.table(entries, names))
    order = ["predecessor", "direct", "direct:learning_rate=1e-5", "article", "ours"]
    assert [name for name, _ in rows] == order
    assert all(row["seeds"] == "2" for row in rows.values())
    assert "article's dev" not in rows["ours", 6]

    def mean(variant):
        return np.mean([entry["dev"] for entry in entries if entry["variant"] == variant])

    before, direct, ours = map(mean, ("predecessor", "direct", "ours"))
    row = rows["ours", 6]
    assert row["dev"].startswith(f"{100 * ours:.2f} ± ")
    assert row["kept %"].startswith(f"{100 * ours / before:.1f} (")
    closed = (ours - direct) / (before - direct)
    assert row["gap closed %"].startswith(f"{100 * closed:.1f} (")
    assert row["CPU / article"] == "1.25" and row["CPU s"] == "750"
    # No gap of what it is measured by; the other learning rate has one, below 0.
    for model in (("predecessor", 12), ("direct", 6)):
        assert rows[model]["gap closed %"] == "-"
    assert rows["direct:learning_rate=1e-5", 6]["gap closed %"].startswith("-")
    assert rows["predecessor", 12]["kept %"] == "-"


def test_direct_is_the_learning_rate_that_validation_chooses(quality_table, study):
    entries = quality_table.read(study)
    assert quality_table.Figures(entries).best_direct(6) == ("direct", 6)
    for entry in entries:
        if entry["variant"] == "direct:learning_rate=1e-5":
            entry["validation"] = 1.0
    assert quality_table.Figures(entries).best_direct(6)[0] == "direct:learning_rate=1e-5"
    assert '"direct:learning_rate=1e-5" with 6 layers' in quality_table.notes(entries)


def brute_force(study, function, variants, draws=4000):
    """The interval, draw by draw: examples and seeds anew, the same for all models."""
    rng = np.random.default_rng(7)
    right = {
        (name, seed): np.load(study / f"seed-{seed}" / f"{name}-{layers}" / "dev.npy")[:, 0]
        for name, layers in variants
        for seed in range(2)
    }
    found = []
    for _ in range(draws):
        examples = rng.integers(EXAMPLES, size=EXAMPLES)
        seeds = rng.integers(2, size=2)
        found.append(
            function(
                *(np.mean([right[name, s][examples].mean() for s in seeds]) for name, _ in variants)
            )
        )
    return np.quantile(found, [0.025, 0.975])


def test_intervals_are_those_of_brute_force(quality_table, study):
    figures = quality_table.Figures(quality_table.read(study))
    before, direct, ours = ("predecessor", 12), ("direct", 6), ("ours", 6)
    figure, ends = figures(quality_table.kept, before, ours)
    assert ends[0] < figure < ends[1] < 1
    expected = brute_force(study, lambda a, b: b / a, [before, ours])
    np.testing.assert_allclose(ends, expected, atol=0.004)
    figure, ends = figures(quality_table.gap_closed, before, direct, ours)
    assert 0 < ends[0] < figure < ends[1] < 1
    expected = brute_force(study, lambda p, d, s: (s - d) / (p - d), [before, direct, ours])
    np.testing.assert_allclose(ends, expected, atol=0.02)


def test_pairs_are_kept_and_seeds_count(quality_table, tmp_path):
    """A model is all of itself, whatever is drawn; seeds that differ widen the interval."""
    right = outcomes(0, 0.8, 0.6)
    for seed in range(2):
        write(quality_table, tmp_path, "predecessor", 4, seed, right[0], "predecessor")
        write(quality_table, tmp_path, "same", 2, seed, right[0])
        write(quality_table, tmp_path, "apart", 2, seed, right[seed])
    figures = quality_table.Figures(quality_table.read(tmp_path))
    assert figures(quality_table.kept, ("predecessor", 4), ("same", 2)) == (1.0, (1.0, 1.0))
    _, (low, high) = figures(quality_table.kept, ("predecessor", 4), ("apart", 2))
    assert low < right[1].mean() / right[0].mean() + 0.03 and high == 1.0


def test_no_gap_where_direct_fine_tuning_is_as_good(quality_table, tmp_path):
    best, worse = outcomes(0, 0.8, 0.7)
    write(quality_table, tmp_path, "predecessor", 4, 0, best, "predecessor")
    write(quality_table, tmp_path, "direct", 2, 0, best, "direct", cpu_seconds=2.0)
    write(quality_table, tmp_path, "ours", 2, 0, worse, cpu_seconds=1.0)
    nearly = best.copy()
    nearly[np.flatnonzero(best)[0]] = False
    write(quality_table, tmp_path, "direct", 1, 0, nearly, "direct", cpu_seconds=2.0)
    write(quality_table, tmp_path, "ours", 1, 0, worse, cpu_seconds=1.0)
    rows = parsed(quality_table.table(quality_table.read(tmp_path), ["direct", "ours"]))
    assert rows["ours", 2]["gap closed %"] == "-"
    assert rows["ours", 1]["gap closed %"].endswith("(no interval)")
    assert rows["ours", 1]["CPU / article"] == rows["predecessor", 4]["CPU s"] == "-"


def test_only_seeds_that_both_have_are_compared(quality_table, study, tmp_path):
    ours, best = outcomes(5, 0.5, 0.9)
    write(quality_table, tmp_path, "predecessor", 12, 0, best, "predecessor")
    for seed, right in enumerate((best, ours)):
        write(quality_table, tmp_path, "ours", 6, seed, right, cpu_seconds=1.0)
    rows = parsed(quality_table.table(quality_table.read(tmp_path), []))
    assert rows["ours", 6]["seeds"] == "2"
    assert rows["ours", 6]["kept %"] == "100.0 (100.0 to 100.0)"


def test_the_articles_figures_stand_beside_ours(iflytek, study, capsys):
    description = {
        "task": "iflytek",
        "examples": {"train": 4176, "validation": 464, "dev": EXAMPLES},
        "score": "accuracy",
        "max_length": 64,
        "bert": "small",
        "num_hidden_layers": 12,
        "hidden_size": 384,
        "host": "keras",
        "precision": "float32",
    }
    (study / "study.json").write_text(json.dumps(description))
    assert iflytek.main(["--report", "--output-dir", str(study)]) == 0
    head, table, notes = capsys.readouterr().out.strip().split("\n\n")
    assert head.startswith("iflytek (4,176 train, 464 validation, 400 dev; 64 tokens; accuracy)")
    rows = parsed(table)
    shown = {model: row["article's dev"] for model, row in rows.items()}
    assert shown["predecessor", 12] == "60.11" and shown["article", 6] == "59.61"
    assert shown["direct", 6] == "58.99" and shown["ours", 6] == "-"
    assert "4,640 of the 12,133 rows of train" in notes and "400 examples" in notes
    article = {key: value / 100 for key, value in iflytek.ARTICLE.items()}
    for layers, text in ((6, "99.2 % and close 55 %"), (3, "98.8 % and 65 %")):
        best, direct, ours = (
            article[key] for key in (("predecessor", 12), ("direct", layers), ("article", layers))
        )
        kept, closed = ours / best, (ours - direct) / (best - direct)
        assert text.split(" %")[0] == f"{100 * kept:.1f}" and text in notes
        assert f"{100 * closed:.0f} %" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report"], "holds no results yet"),
        ([], "--data-dir is needed: a folder with train.json, dev.json and labels.json"),
        (["--data-dir", "."], "--bert-dir is needed"),
        (["--layers", "0"], "expected a whole number of at least 1"),
        (["--task", "sst2"], "unrecognized arguments"),
    ],
)
def test_wrong_flags_are_named(iflytek, flags, message, tmp_path, capsys):
    try:
        status = iflytek.main([*flags, "--output-dir", str(tmp_path)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_the_tables_in_the_results_are_those_of_the_records(quality, capsys):
    studies = sorted(path.parent for path in (BENCHMARKS / "records").glob("*/study.json"))
    assert studies
    lines = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    for study in studies:
        assert quality.main(["--report", "--output-dir", str(study)]) == 0
        rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
        assert len(rows) > 2 and set(rows) <= set(lines)
