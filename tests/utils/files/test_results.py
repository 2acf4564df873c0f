"""Results are whole or not there, and what failed is named."""

import errno

import pytest

from utils.files.results import naming, whole_or_none


def test_what_is_written_stays(tmp_path):
    with whole_or_none(tmp_path / "a.txt") as file:
        file.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_full_disk_leaves_no_half_file_and_is_named(tmp_path):
    def write():
        with whole_or_none(tmp_path / "a.txt") as file:
            file.write_text("ha")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        write()
    assert error.value.filename == str(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_the_systems_own_name_stays(tmp_path):
    def look():
        with naming("other"):
            (tmp_path / "absent").read_bytes()

    with pytest.raises(FileNotFoundError) as error:
        look()
    assert error.value.filename == str(tmp_path / "absent")
