"""pyproject.toml, the requirements files and the workflow name the same packages, versions and Pythons."""

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml

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


def test_workflow_runs_the_oldest_and_the_newest_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    oldest, newest = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    after_newest = f"3.{int(newest.removeprefix('3.')) + 1}"
    assert PROJECT["requires-python"] == f">={oldest},<{after_newest}"
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == "make test"
