"""The documentation keeps its word: its examples run, and it names all that is public."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distgrad as dg
import distgrad.compat.tensorflow as tf
import distgrad.distributed as dist
from distgrad import backend, checkpoint, nn, optimizers, random, testing, training
from distgrad.compat.tensorflow.missing import NOT_OFFERED
from distgrad.testing.ranks import run_ranks

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial" / "numpy-to-four-ranks.md").read_text()
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


MODULES = (
    *(dg, dist, dist.compression, backend, checkpoint),
    *(nn, optimizers, random, testing, training),
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_reference_names_every_public_name(module):
    page = (ROOT / "docs" / "reference" / "index.md").read_text()
    named = set(re.findall(r"\w+", page))

    assert set(module.__all__) - named == set()


def test_every_page_is_in_the_table_of_contents():
    docs = ROOT / "docs"
    listed = set(re.findall(r"^([\w/-]+)$", (docs / "index.md").read_text(), re.MULTILINE))
    folders = ("tutorial", "how-to", "explanation", "reference")
    pages = {f"{path.parent.name}/{path.stem}" for f in folders for path in (docs / f).glob("*.md")}
    pages |= {path.stem for path in docs.glob("*.md")} - {"index"}

    assert pages == listed


def test_the_architecture_page_names_every_module_below_the_face():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    named = set(re.findall(r"\w+", page))
    modules = {path.stem for path in (ROOT / "distgrad").iterdir() if "__" not in path.name}

    assert modules - {"py", *named} == set()


def test_the_tutorials_script_prints_what_the_page_says(tmp_path):
    alone = subprocess.run(
        [sys.executable, tutorials_script(tmp_path)], capture_output=True, text=True, timeout=120
    )

    assert (alone.stdout, alone.stderr) == (printed_by("python fit.py"), "")


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpirun").exists(), reason="needs an MPI")
def test_the_tutorials_script_prints_what_the_page_says_on_four_ranks(tmp_path):
    job = run_ranks(4, tutorials_script(tmp_path), timeout=120)

    assert (job.returncode, job.stdout) == (0, printed_by("mpirun -n 4 python fit.py"))


def tutorials_script(folder):
    script = folder / "fit.py"
    code = TUTORIAL.split("```python\nimport numpy", 1)[1].split("```")[0]
    script.write_text(f"import numpy{code}")
    return script


def printed_by(command):
    return re.split(r"^[$`]", TUTORIAL.split(f"$ {command}\n", 1)[1], maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize("name", ["linalg", "fft", "special"])
def test_a_namespaces_own_page_names_all_that_it_has(name):
    page = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    listed = re.findall(r"^   (\w+)$", page, re.MULTILINE)

    assert sorted(listed) == sorted(getattr(dg, name).__all__)


def test_what_the_tensorflow_page_calls_missing_is_missing_and_nothing_else():
    page = (ROOT / "docs" / "how-to" / "coming-from-tensorflow.md").read_text()
    section = re.sub(r"\([^)]*\)", "", page.split("## Not offered yet", 1)[1])
    bullets = [re.findall(r"`([\w.]+)`", bullet) for bullet in section.split("\n- ")[1:]]
    listed = {
        (first.split(".")[1], name)
        for first, *rest in bullets
        for name in (first.split(".")[2], *rest)
    }

    assert listed == {
        (module, name)
        for module, names in NOT_OFFERED.items()
        for name in names
        if not hasattr(getattr(tf, module) if module else tf, name)
    }


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
