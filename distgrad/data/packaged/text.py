"""Text that comes inside packages: Python's own language reference."""

from __future__ import annotations

from distgrad.data.missing import needed


def python_reference() -> bytes:
    """Return the language reference that Python brings along as the module `pydoc_data.topics`.

    Returns
    -------
    bytes
        Its topics in the order of their names, in UTF-8: some 460 000 bytes of English about
        Python. Each version of Python has its own: tell its hash beside what you measure.

    Raises
    ------
    MissingDataError
        If Python was installed without it.
    """
    module = needed("pydoc_data.topics", "the reference comes", "apt-get install libpython3-stdlib")
    topics: dict[str, str] = module.topics
    return "\n".join(topics[name] for name in sorted(topics)).encode()
