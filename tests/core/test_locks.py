"""A lock excludes threads and processes of one host, ends with its process, and is waited for no longer than said."""

import multiprocessing
import os
import threading

import pytest

from hfthot_platform.core.errors import LockTimeoutError
from hfthot_platform.core.files import open_private
from hfthot_platform.core.locks import acquire_in_turn, file_lock, is_locked, release_lock, take


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.lock"


@pytest.fixture
def handles(path):
    """Two handles of the same file, as two processes have them."""
    opened = [open_private(path) for _ in range(2)]
    yield opened
    for handle in opened:
        os.close(handle)


def test_two_handles_exclude_each_other(handles):
    first, second = handles
    assert take(first, timeout=0)
    assert not take(second, timeout=0)
    release_lock(first)
    assert take(second, timeout=0)


def test_shared_holders_keep_only_an_exclusive_one_out(handles, path):
    first, second = handles
    assert take(first, shared=True, timeout=0)
    assert take(second, shared=True, timeout=0)
    with pytest.raises(LockTimeoutError), file_lock(path, timeout=0):
        pass


def test_a_lock_that_others_keep_is_refused_with_its_name_and_what_to_do(path):
    with file_lock(path), pytest.raises(LockTimeoutError) as refused, file_lock(path, timeout=0.01, where="the table"):
        pass
    assert str(refused.value).startswith("the table: another process held the lock for 0.01 s. Wait for the process")


def test_a_lock_is_let_go_at_the_end_of_its_block_and_after_an_error(path):
    with pytest.raises(ZeroDivisionError), file_lock(path):
        1 / 0  # noqa: B018
    assert not is_locked(path)


def test_whether_a_lock_is_held_is_told_without_taking_it(path):
    with file_lock(path):
        assert is_locked(path)
        assert is_locked(path)
    assert not is_locked(path)


def test_the_file_of_a_lock_is_its_owners_alone(path):
    with file_lock(path):
        assert path.stat().st_mode & 0o077 == 0


def test_whoever_waits_takes_the_lock_when_it_is_let_go(path):
    entered = threading.Event()

    def wait():
        with file_lock(path, timeout=60):
            entered.set()

    with file_lock(path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.is_set()
    waiting.join(60)
    assert entered.is_set()


def test_whoever_waits_at_the_gate_is_before_those_who_come_later(tmp_path):
    lock, gate = tmp_path / "t.lock", tmp_path / "t.gate"
    waiting = threading.Thread(target=lambda: _enter(lock))
    with file_lock(lock, shared=True, fair=True):
        waiting.start()
        # It stands at the gate as soon as the gate is taken: shared holders that come now have to wait behind it.
        while not (gate.exists() and is_locked(gate)):
            pass
        with pytest.raises(LockTimeoutError), file_lock(lock, shared=True, fair=True, timeout=0):
            pass
    waiting.join(60)
    assert not waiting.is_alive()


def _enter(lock):
    with file_lock(lock, fair=True, timeout=60):
        pass


def test_the_gate_is_free_again_if_the_lock_was_not_to_be_had(tmp_path):
    gate, lock = (open_private(tmp_path / name) for name in ("gate", "lock"))
    with file_lock(tmp_path / "lock"):
        assert not acquire_in_turn(gate, lock, timeout=0)
    assert not is_locked(tmp_path / "gate")
    os.close(gate)
    os.close(lock)


def _hold_until_killed(path, held):
    with file_lock(path):
        held.set()
        threading.Event().wait()


def test_a_killed_process_leaves_no_lock(path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold_until_killed, args=(path, held))
    process.start()
    assert held.wait(60)
    assert is_locked(path)
    process.kill()
    process.join(60)
    with file_lock(path, timeout=60):
        pass
