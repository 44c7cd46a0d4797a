"""Kernels are compiled once, into the user's own cache; whatever goes wrong, NumPy computes."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from distgrad import user_cache
from distgrad.errors import CacheError
from distgrad_numpy.compiled import CompilerWarning, compiler, library

SOURCE = '#include "vector.hpp"\nKERNEL int answer() { return 42; }\n'

pytestmark = pytest.mark.needs_compiler


def libraries(folder):
    return sorted((folder / "kernels").glob("*.so"))


def fresh():
    """Forget what is loaded, as a new process would have."""
    library._state.libraries.clear()


def test_a_kernel_is_compiled_once_and_found_again(cache, monkeypatch):
    assert library.from_source("one", SOURCE).answer() == 42
    fresh()
    monkeypatch.setattr(compiler, "_run", lambda words: pytest.fail("compiled again"))

    assert library.from_source("one", SOURCE).answer() == 42


def test_the_cache_is_its_owners_alone(cache):
    library.from_source("one", SOURCE)

    assert (cache / "kernels").stat().st_mode & 0o777 == 0o700
    assert [each.stat().st_mode & 0o777 for each in libraries(cache)] == [0o700]


def test_nothing_but_the_library_is_left_in_the_cache(cache):
    library.from_source("one", SOURCE)

    assert os.listdir(cache / "kernels") == [libraries(cache)[0].name]


def test_what_a_killed_process_left_is_removed_and_what_another_one_makes_is_not(cache):
    killed, working = (cache / "kernels" / f".compiling-{name}" for name in ("old", "new"))
    for folder in (killed, working):
        folder.mkdir(mode=0o700, parents=True)
        (folder / "kernel.cpp").write_text("// a kernel")
    os.utime(killed, (0, 0))
    for each in (cache, cache / "kernels"):
        each.chmod(0o700)
    library.from_source("one", SOURCE)

    assert not killed.exists()
    assert working.exists()


@pytest.mark.parametrize("damage", [b"", b"\x7fELF and then nothing"])
def test_a_damaged_library_is_compiled_anew(damage, cache):
    library.from_source("one", SOURCE)
    (made,) = libraries(cache)
    whole = made.read_bytes()
    made.unlink()
    made.write_bytes(damage)
    made.chmod(0o700)
    fresh()

    assert library.from_source("one", SOURCE).answer() == 42
    assert made.read_bytes() == whole


def test_a_folder_that_others_may_write_to_is_refused(cache):
    library.from_source("one", SOURCE)
    (cache / "kernels").chmod(0o777)
    fresh()

    with pytest.warns(CompilerWarning, match="chmod go-w"):
        assert library.from_source("one", SOURCE) is None


def test_a_library_that_others_may_write_to_is_refused(cache):
    library.from_source("one", SOURCE)
    libraries(cache)[0].chmod(0o722)
    fresh()

    with pytest.warns(CompilerWarning, match="others may write"):
        assert library.from_source("one", SOURCE) is None


def test_what_somebody_else_owns_is_refused(cache, monkeypatch):
    library.from_source("one", SOURCE)
    fresh()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.warns(CompilerWarning, match="belongs to user"):
        assert library.from_source("one", SOURCE) is None


def test_a_link_in_place_of_the_folder_is_refused(cache, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.mkdir(mode=0o700)
    (cache / "kernels").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CacheError, match="symbolic link"):
        user_cache.cache_folder("kernels")


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTGRAD_CACHE_DIR", str(tmp_path / "file" / "below"))

    with pytest.raises(CacheError, match="DISTGRAD_CACHE_DIR"):
        user_cache.cache_folder("kernels")


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch):
    def home(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("DISTGRAD_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)

    with pytest.raises(CacheError, match="no home folder; name one in DISTGRAD_CACHE_DIR"):
        user_cache.cache_folder()


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTGRAD_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache.cache_folder("kernels") == tmp_path / "xdg" / "distgrad" / "kernels"

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache.cache_folder() == tmp_path / "home" / ".cache" / "distgrad"


def test_an_error_of_the_compiler_is_told_once_and_numpy_computes(cache):
    with pytest.warns(CompilerWarning, match=r"error.*DISTGRAD_C_KERNELS=0"):
        assert library.from_source("broken", "no C++") is None

    assert library.from_source("one", SOURCE) is None  # a second warning would be an error


FAKES = {
    "missing": ("/nowhere/c++", "no C\\+\\+ compiler was found"),
    "failing": ("/bin/false", "/bin/false failed: exit status 1, no message;"),
}


@pytest.mark.parametrize("kind", FAKES)
def test_without_a_compiler_kernels_are_numpys(kind, tmp_path):
    command, said = FAKES[kind]
    done = run(
        """
        import warnings, numpy as np, distgrad as dg
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x = np.linspace(-3, 3, 20000, dtype=np.float32)
            y = dg.nn.gelu(x).numpy(); dg.nn.silu(x)
        assert len(caught) == 1, caught
        print(caught[0].message, float(y[-1]))
        """,
        tmp_path,
        CXX=command,
    )
    assert re.search(said, done), done
    assert done.split()[-1].startswith("2.99")


def test_a_compiler_that_hangs_is_ended(cache, monkeypatch, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setattr(compiler, "_words", lambda: (str(slow),))
    monkeypatch.setattr(compiler, "_version", lambda: "slow")
    monkeypatch.setattr(compiler, "_PATIENCE", 0.2)

    with pytest.warns(CompilerWarning, match="did not end within"):
        assert library.from_source("one", SOURCE) is None


def test_processes_that_compile_at_once_all_get_a_whole_library(tmp_path):
    code = textwrap.dedent(
        f"""
        from distgrad_numpy.compiled import library
        assert library.from_source("one", {SOURCE!r}).answer() == 42
        """
    )
    environment = {**os.environ, "DISTGRAD_CACHE_DIR": str(tmp_path / "cache")}
    jobs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(6)]

    assert [job.wait(timeout=120) for job in jobs] == [0] * 6
    assert len(libraries(tmp_path / "cache")) == 1


def test_subnormal_numbers_are_kept_when_kernels_are_loaded(tmp_path):
    said = run(
        """
        import numpy as np, distgrad as dg
        x = np.full(20000, 1e-40, np.float32)
        y = dg.nn.leaky_relu(x, slope=0.5).numpy()
        assert dg.nn.gelu(x).numpy()[7] > 0
        print(float(y[0]) > 0, float((x * np.float32(0.5))[0]) > 0)
        """,
        tmp_path,
    )
    assert said.split() == ["True", "True"]


def test_a_fork_computes_as_its_parent_did(tmp_path):
    said = run(
        """
        import os, numpy as np, distgrad as dg
        x = np.linspace(-3, 3, 1 << 20, dtype=np.float32)
        first = dg.nn.gelu(x).numpy()
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(dg.nn.gelu(x).numpy(), first) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        tmp_path,
    )
    assert said.strip() == "0"


def test_import_compiles_nothing(tmp_path):
    run("import distgrad as dg; dg.sin(1.0)", tmp_path)

    assert not (tmp_path / "cache").exists()


def test_the_switch_in_the_environment_compiles_nothing(tmp_path):
    run(
        "import numpy as np, distgrad as dg; dg.nn.gelu(np.ones(20000, np.float32))",
        tmp_path,
        DISTGRAD_C_KERNELS="0",
    )
    assert not (tmp_path / "cache").exists()


def run(code, folder, **environment):
    """Return what a process of its own prints, with a cache of its own."""
    own = {**os.environ, "DISTGRAD_CACHE_DIR": str(folder / "cache"), **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", textwrap.dedent(code)],
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
