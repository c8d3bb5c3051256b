"""The wheel holds the package and nothing else; the locks hold what the package asks for."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bert_of_theseus

ROOT = Path(__file__).resolve().parents[2]
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
LOCKS = ("requirements.txt", "requirements-dev.txt")
TOOLS = "requirements-tools.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel from a copy of the tree, so that no `build` folder is left in it."""
    source = tmp_path_factory.mktemp("source") / "tree"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for folder in ("bert_of_theseus", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(source / "dist"), str(source)]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return BytesParser().parsebytes(wheel.read(name))


def test_wheel_holds_every_module_and_nothing_else(wheel):
    expected = {
        str(path.relative_to(ROOT)) for path in (ROOT / "bert_of_theseus").rglob("*.py")
    } | {"bert_of_theseus/py.typed"}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert {"bert_of_theseus/encoders/__init__.py", "bert_of_theseus/checkpoints/__init__.py"} < (
        packed
    )


def test_wheel_holds_the_license(wheel):
    names = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert len(names) == 1
    assert wheel.read(names[0]) == (ROOT / "LICENSE").read_bytes()


def test_wheel_imports_from_an_empty_folder(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import sys, bert_of_theseus as b; print(b.__version__, b.__file__)"
    code += "; print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    # -I drops the working folder, PYTHONPATH and with them the tree; the wheel's folder is put
    # first, before an editable install of the tree.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    version, file = first.split(" ", 1)
    assert version == bert_of_theseus.__version__
    assert Path(file).is_relative_to(tmp_path)
    assert second == "False", "importing the package alone should not import a Keras"


def test_metadata(metadata):
    assert metadata["Name"] == "bert-of-theseus"
    assert metadata["Version"] == bert_of_theseus.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra")) == {
        "bert4keras",
        "keras-hub",
        "datasets",
        "demo",
        "dev",
        "export",
        "parquet",
        "plots",
        "predict",
        "tasks",
    }


def test_the_command_is_installed(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    text = wheel.read(name).decode()
    assert text.split() == [
        "[console_scripts]", "bert-of-theseus", "=", "bert_of_theseus.__main__:main"
    ]  # fmt: skip


def read_pins(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip()[:1] not in ("", "#")]


def select_pins(pins: list[Requirement], python_version: str) -> dict[str, str]:
    """The versions that pip installs on Linux under this version of Python, by name."""
    environment = {
        "implementation_name": "cpython",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python_version}.5",
        "python_version": python_version,
        "sys_platform": "linux",
    }
    chosen = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            (specifier,) = pin.specifier
            assert name not in chosen, f"{name} is pinned twice for Python {python_version}"
            chosen[name] = specifier.version
    return chosen


@pytest.mark.parametrize("lock", [*LOCKS, TOOLS])
def test_lock_pins_every_line(lock):
    pins = read_pins(lock)
    assert len(pins) > 20
    for pin in pins:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert "*" not in str(pin.specifier), str(pin)


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*")), ids=lambda path: path.name)
def test_requirements_hold_no_path_and_no_host(path):
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"(^|\s)(/|~/|[A-Za-z]:\\)\w", text)
    assert not re.search(r"^\s*(-i|-f|-e|--\S*index\S*|--find-links|--trusted-host)\b", text, re.M)
    assert " @ " not in text


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_locks_agree_with_each_other(python_version):
    run, dev, tools = (select_pins(read_pins(lock), python_version) for lock in (*LOCKS, TOOLS))
    assert {"keras", "numpy", "tensorflow"} <= run.keys() & dev.keys()
    assert "ruff" in dev.keys() & tools.keys()
    for one, other in ((run, dev), (run, tools), (dev, tools)):
        shared = one.keys() & other.keys()
        assert {name: one[name] for name in shared} == {name: other[name] for name in shared}


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_locks_satisfy_the_package(metadata, python_version):
    run, dev = (select_pins(read_pins(lock), python_version) for lock in LOCKS)
    both = run | dev
    for line in metadata.get_all("Requires-Dist"):
        requirement = Requirement(line)
        # What the demo needs must be in requirements.txt itself; the rest is for the tests.
        extra = re.search(r'extra == "([^"]+)"', line)
        needs_dev = extra is not None and extra.group(1) in (
            *("datasets", "dev", "export", "keras-hub", "parquet", "plots", "predict", "tasks"),
        )
        version = (both if needs_dev else run).get(canonicalize_name(requirement.name))
        assert version is not None, f"{line}: not locked for Python {python_version}"
        assert requirement.specifier.contains(version), f"{line}: locked at {version}"


def test_every_import_of_the_package_is_declared(metadata):
    requirements = map(Requirement, metadata.get_all("Requires-Dist"))
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    # What is installed with --no-deps, and what a user may bring: a Keras backend, and LiteRT's
    # interpreter in the place of TensorFlow's.
    declared |= {"bert4keras", "seqeval", "torch", "ai-edge-litert"}
    imported = {}
    for path in sorted((ROOT / "bert_of_theseus").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                imported[name.partition(".")[0]] = path.name
    own = sys.stdlib_module_names | {"bert_of_theseus"}
    missing = {
        name: path
        for name, path in imported.items()
        if name not in own and canonicalize_name(name) not in declared
    }
    assert {"keras", "numpy"} <= imported.keys()
    assert not missing


def test_the_type_checker_sees_every_public_name():
    tree = ast.parse((ROOT / "tests" / "typing" / "public_names.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    (names,) = (node.names for node in imports if node.module == "bert_of_theseus")
    assert {name.name for name in names} == set(bert_of_theseus.__all__)


def test_workflows_call_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    found = set()
    for path in (ROOT / ".github" / "workflows").iterdir():
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands = [step["run"].split() for step in job["steps"] if "run" in step]
            assert commands and all(command[0] == "make" for command in commands), path
            found |= {command[1] for command in commands}
    assert {"lint", "test", "test-slow", "docs", "release"} <= found <= targets


def test_hooks_run_what_make_lint_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert [re.sub(" --force-exclude", "", hook) for hook in hooks] == [
        line.removesuffix(" .") for line in lines
    ]


def test_torch_adds_nothing_but_torch():
    (torch,) = read_pins("requirements-torch.txt")
    locked = select_pins(read_pins("requirements-dev.txt"), "3.11")
    assert "torch" not in locked
    needs = {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"}
    assert needs <= locked.keys()
    assert str(torch.specifier).startswith("==")


@pytest.mark.parametrize("name", ["requirements-bert4keras.txt", "requirements-demo.txt"])
def test_packages_without_dependencies_are_pinned_and_say_so(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-c "))]
    assert len(lines) == 1
    assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", lines[0])
    assert f"pip install --no-deps -r {name}" in text
