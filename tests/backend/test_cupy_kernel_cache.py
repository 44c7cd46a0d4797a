"""CuPy reads compiled kernels from a folder that nobody else may write to, or from none."""

import os
import warnings

import pytest

from distgrad import user_cache

pytest.importorskip("cupy")
from distgrad_cupy.kernel_cache import KernelCacheWarning, keep_private


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder that CuPy is told of, and forget afterwards what was decided."""
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))
    (tmp_path / "kernels").mkdir(mode=0o700)
    return tmp_path / "kernels"


def is_in_memory():
    return os.environ["CUPY_CACHE_IN_MEMORY"] == "1"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500])
def test_a_folder_of_the_users_own_is_kept(folder, mode):
    folder.chmod(mode)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_private()

    assert not is_in_memory()


def test_a_folder_that_others_may_write_to_is_not_used(folder):
    folder.chmod(0o777)

    with pytest.warns(KernelCacheWarning, match=r"others could replace them.*chmod go-w"):
        keep_private()

    assert is_in_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_private()  # once is enough


def test_a_folder_of_somebody_else_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.warns(KernelCacheWarning, match="belongs to user .* in CUPY_CACHE_DIR"):
        keep_private()

    assert is_in_memory()


def test_the_folder_in_which_the_usual_one_lies_counts_too(tmp_path, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_private()  # nothing there yet: CuPy makes it
    assert not os.environ["CUPY_CACHE_IN_MEMORY"]

    (tmp_path / ".cupy" / "kernel_cache").mkdir(parents=True, mode=0o700)
    (tmp_path / ".cupy").chmod(0o707)
    with pytest.warns(KernelCacheWarning, match=r"chmod go-w .*\.cupy"):
        keep_private()


@pytest.mark.parametrize(
    ("name", "members", "is_open"),
    [
        ("user", [], False),
        ("user", ["user"], False),
        ("user", ["friend"], True),
        ("staff", [], True),
    ],
)
def test_a_group_of_the_user_alone_may_write(folder, monkeypatch, name, members, is_open):
    class Entry:
        pw_name, gr_name, gr_mem = "user", name, members

    monkeypatch.setattr("pwd.getpwuid", lambda _: Entry)
    monkeypatch.setattr("grp.getgrgid", lambda _: Entry)
    folder.chmod(0o770)

    assert user_cache._is_open_to_others(folder.stat()) is is_open


def test_who_has_no_home_has_kernels_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    for name in ("CUPY_CACHE_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)

    keep_private()

    assert not is_in_memory()


def test_a_home_that_cannot_be_looked_at_is_not_used(folder, monkeypatch):
    def refuse(path, **how):
        raise PermissionError(13, "Permission denied")

    for name in ("stat", "lstat"):
        monkeypatch.setattr(type(folder), name, refuse)

    with pytest.warns(KernelCacheWarning, match=r"cannot be looked at.* in CUPY_CACHE_DIR"):
        keep_private()

    assert is_in_memory()
