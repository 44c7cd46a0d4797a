"""A file that is written anew is the old one or the whole new one."""

import os

import pytest

from distgrad.whole_files import replacing


def test_the_old_file_stands_until_the_block_has_ended(tmp_path):
    path = tmp_path / "page"
    path.write_text("old")

    with replacing(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "page"
    path.write_text("old")

    def fail():
        with replacing(path) as file:
            file.write("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("page")

    with replacing(link) as file:
        file.write("new")

    assert link.is_symlink()
    assert (tmp_path / "page").read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    with replacing(pipe) as file:
        file.write("new")

    assert os.read(reader, 99) == b"new"
    assert pipe.is_fifo()
    os.close(reader)
