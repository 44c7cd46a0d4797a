"""The documentation keeps its word: its examples run, and it names all that is public."""

import doctest
import re
from pathlib import Path

import pytest

import distgrad as dg
import distgrad.distributed as dist

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_print_what_they_say(page):
    failures, _ = doctest.testfile(
        str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )

    assert failures == 0


def test_the_readme_has_examples_that_run():
    examples = doctest.DocTestParser().get_examples((ROOT / "README.md").read_text())

    assert len(examples) > 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())

    for target in targets:
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("module", [dg, dist], ids=["distgrad", "distgrad.distributed"])
def test_the_reference_names_every_public_name(module):
    page = (ROOT / "docs" / "reference" / "index.md").read_text()
    named = set(re.findall(r"\w+", page))

    assert set(module.__all__) <= named


@pytest.mark.parametrize("name", ["linalg", "fft"])
def test_a_namespaces_own_page_names_all_that_it_has(name):
    page = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    listed = re.findall(r"^   (\w+)$", page, re.MULTILINE)

    assert sorted(listed) == sorted(getattr(dg, name).__all__)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
