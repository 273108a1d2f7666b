"""The built wheel, installed in an empty environment, works without the checkout."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pneumoseg"
BUILD_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
EXPERIMENT = {
    "kind": "classifier",
    "backbone": "compact",
    "image_size": 32,
    "weights": None,
    "batch_size": 8,
    "seed": 0,
    "split": {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False},
    "phases": [{"epochs": 1, "learning_rate": 0.001, "trainable": "all"}],
}


def pip(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy of the sources, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for path in [*PACKAGE.rglob("*"), *(ROOT / name for name in BUILD_FILES)]:
        if path.is_file() and path.suffix != ".pyc":
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    built = pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", source / "dist", source)
    if built.returncode and ("No module named" in built.stderr or "Cannot import" in built.stderr):
        pytest.skip(f"pip cannot build a wheel here: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (path,) = (source / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel alone; its dependencies are found where this one has them."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    installed = pip("--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    (site_packages,) = folder.rglob("site-packages")
    # Folders that a .pth file names come after the environment's own, and their own .pth files (such as that of an
    # editable installation of the checkout) are not read.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies))
    return scripts


@pytest.fixture
def run(environment, tmp_path):
    """Run a program of the environment in an empty folder, without this process' paths."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments):
        program = [environment / arguments[0], *arguments[1:]]
        done = subprocess.run(
            list(map(str, program)), cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_wheel_holds_every_file_of_the_package(environment):
    (installed,) = (environment.parent).rglob("site-packages/pneumoseg")
    files = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {path for path in files if path.suffix not in (".pyc", ".md")}
    assert Path("report/page.html") in expected
    assert expected <= {path.relative_to(installed) for path in installed.rglob("*")}


def test_package_is_the_installed_one(run, environment):
    found = Path(run("python", "-c", "import pneumoseg; print(pneumoseg.__file__)").strip())
    assert found.is_relative_to(environment.parent)


def test_installed_command_generates_indexes_and_trains(run, tmp_path):
    run("pneumoseg", "synthesize", "data", "--train", "20", "--test", "2", "--seed", "0")
    indexed = run("pneumoseg", "index", "data/dicom-images-train", "data/train-rle.csv", "--out", "manifest.csv")
    assert "20 images" in indexed
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    run("pneumoseg", "train", "experiment.yaml", "--manifest", "manifest.csv", "--out", "run")
    assert (tmp_path / "run/best/spec.json").exists()
