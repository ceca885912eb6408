"""pyproject.toml and the requirements files name the same packages at the same versions, and these are installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTS = {"requirements.txt": PROJECT["dependencies"]} | {
    f"requirements-{extra}.txt": names for extra, names in PROJECT["optional-dependencies"].items()
}


def requirements(name):
    """`name==version` of each line; comments and hashes are left out."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.split(" --hash=")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", LISTS)
def test_requirements_agree_with_pyproject(name):
    assert requirements(name) == LISTS[name]
    assert all(requirement.count("==") == 1 for requirement in LISTS[name])


def test_no_other_requirements():
    assert {path.name for path in ROOT.glob("requirements*.txt")} == set(LISTS)


def test_the_embedded_model_is_checked_by_its_hash():
    line = (ROOT / "requirements-quickstart.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert len(line.partition(" --hash=sha256:")[2]) == 64


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-quickstart.txt"])
def test_these_versions_are_installed(name):
    for requirement in LISTS[name]:
        package, _, wanted = requirement.partition("==")
        try:
            installed = version(package).split("+")[0]  # 2.13.0+cpu names the build too
        except PackageNotFoundError:
            pytest.fail(f"{requirement} is not installed: make install")
        assert installed == wanted, requirement
