"""Build the documentation: sphinx-build docs docs/_build."""

from distgrad import __version__

project = "distgrad"
author = "the distgrad developers"
release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
html_theme = "furo"
numpydoc_show_class_members = False
autosummary_generate = True
autosummary_imported_members = True
templates_path = ["_templates"]  # a class's page has its methods
exclude_patterns = ["_build", "_templates", "changelog"]
suppress_warnings = ["myst.xref_missing"]
