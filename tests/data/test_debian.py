"""A Debian package of data is unpacked into the user's cache, once, and without root."""

import os
import stat

import pytest

from distgrad.data.packaged import MissingDataError, unpack_debian

APT = """#!/bin/sh
echo "$*" >>"{record}"
{fault}
: >"$3_1.0_all.deb"
"""

DPKG = """#!/bin/sh
echo "$1" >>"{record}"
/bin/mkdir -p "$3/usr/share/data"
echo 42 >"$3/usr/share/data/numbers"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that puts programs on the path, and returns what tells their arguments."""
    record = tmp_path / "record"
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(fault=""):
        for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
            path = programs / name
            path.write_text(text.format(record=record, fault=fault))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return lambda: record.read_text().splitlines()

    return install


def test_a_package_is_fetched_once_and_its_files_lie_by_their_paths(machine, tmp_path):
    told = machine()

    folder = unpack_debian("some-data")
    again = unpack_debian("some-data")

    assert folder == again == tmp_path / "cache" / "distgrad" / "debian" / "some-data"
    assert (folder / "usr/share/data/numbers").read_text() == "42\n"
    assert told() == ["--quiet download some-data", "--extract"]
    assert os.listdir(folder.parent) == ["some-data"]  # nothing of the work is left


def test_what_the_archive_says_is_told_and_nothing_is_left(machine, tmp_path):
    machine("echo 'E: Unable to locate package some-data' >&2; exit 100")

    with pytest.raises(MissingDataError, match="E: Unable to locate package some-data; run"):
        unpack_debian("some-data")

    assert os.listdir(tmp_path / "cache" / "distgrad" / "debian") == []


def test_a_machine_without_apt_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(MissingDataError, match=r"some-data could not be unpacked.*apt-get"):
        unpack_debian("some-data")


@pytest.mark.parametrize("name", ["", "-o=x", "../etc", "a b", "a/b"])
def test_what_is_no_name_of_a_package_is_refused(name):
    with pytest.raises(ValueError, match="no name of a Debian package"):
        unpack_debian(name)
