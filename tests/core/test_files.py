"""Files are replaced as a whole, leave nothing behind, and are their owner's alone where that is asked for."""

import os
import stat

import pytest

from hfthot_platform.core.errors import ConfigError
from hfthot_platform.core.files import (
    create_private,
    made_folder,
    open_private,
    replacing,
    sync_file,
    sync_folder,
    tighten,
    write_whole,
)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_and_nothing_else_is_left(tmp_path):
    write_whole(tmp_path / "a.txt", "é")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.txt": "é".encode()}


def test_a_file_is_replaced(tmp_path):
    (tmp_path / "a").write_text("old")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_reader_sees_the_old_content_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "a").write_text("old")
    with replacing(tmp_path / "a") as file:
        file.write(b"half")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "half"


def test_what_fails_halfway_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    (tmp_path / "a").write_text("old")

    def half():
        yield b"half"
        1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as file:
        file.writelines(half())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_the_longest_name_that_the_system_takes_can_be_replaced(tmp_path):
    write_whole(tmp_path / ("n" * 255), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_a_file_that_cannot_take_its_place_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_private_file_is_its_owners_from_its_first_byte(tmp_path):
    with replacing(tmp_path / "a", private=True):
        assert [mode(path) for path in tmp_path.iterdir()] == [0o600]
    assert mode(tmp_path / "a") == 0o600


def test_a_file_takes_the_usual_mode_otherwise(tmp_path):
    usual = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(usual)
    assert mode(tmp_path / "a") == 0o640


def test_a_new_private_file_never_takes_over_an_existing_one(tmp_path):
    os.close(create_private(tmp_path / "a"))
    assert mode(tmp_path / "a") == 0o600
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "a")


def test_a_new_private_file_does_not_follow_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "link")


def test_a_private_file_that_was_left_open_to_others_is_closed_to_them(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o644)
    os.close(open_private(tmp_path / "a"))
    assert mode(tmp_path / "a") == 0o600


def test_tightening_takes_only_the_rights_of_others(tmp_path):
    tmp_path.chmod(0o755)
    tighten(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_file_is_synced_by_its_path_or_its_handle(tmp_path):
    handle = open_private(tmp_path / "a")
    os.write(handle, b"x")
    sync_file(handle)
    sync_file(tmp_path / "a")
    os.close(handle)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_file(handle)


def test_syncing_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sync_file(tmp_path / "nowhere")
    write_whole(tmp_path / "file", "x")
    with pytest.raises(NotADirectoryError, match="file"):
        sync_folder(tmp_path / "file")


def test_what_a_killed_writer_left_is_gone_after_the_next_one_that_is_alone(tmp_path):
    write_whole(tmp_path / "keys", b"old", private=True, alone=True)
    child = os.fork()
    if child == 0:
        with replacing(tmp_path / "keys", private=True, alone=True) as file:
            file.write(b"half")
            file.flush()
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "keys").read_bytes() == b"old"

    write_whole(tmp_path / "keys", b"new", private=True, alone=True)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"keys": b"new"}
    assert mode(tmp_path / "keys") == 0o600


def test_the_folder_of_a_setting_is_made_with_those_above_it(tmp_path):
    assert made_folder(tmp_path / "a" / "b", "scratch").is_dir()
    assert made_folder(tmp_path / "a" / "b", "scratch").is_dir()
    assert mode(made_folder(tmp_path / "secret", "exports", private=True)) == 0o700


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_a_settings_folder_is_an_error_that_names_the_setting(tmp_path, place):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(ConfigError, match=r"setting 'scratch': .*HFTHOT_SCRATCH"):
        made_folder(tmp_path / place, "scratch")
    assert (tmp_path / "file").read_text() == "here first"
