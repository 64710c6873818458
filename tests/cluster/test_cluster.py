"""Where units of work are computed: the same results in each form, in order, and a lost worker costs its own items."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from hfthot_platform.core.errors import ConfigError, DataError, WorkerLostError
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.cluster import InProcess, Pool, open_cluster


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise DataError("three", where="test", hint="Give another.")
    return number


def process_of(_: int) -> int:
    return os.getpid()


def note_and_die_once(number: int, folder: Path) -> int:
    """Note that an item was begun; the first that begins the fourth item dies over it, as out of memory."""
    with (folder / str(number)).open("a") as notes:
        notes.write("x")
    if number == 4 and (folder / "4").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


class UnknownError(Exception):
    """An error that cannot travel."""

    def __init__(self) -> None:
        super().__init__("unknown")
        self.lock = threading.Lock()


def fail(_: int) -> int:
    raise UnknownError


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as made:
        yield made


@pytest.fixture(params=["threads", "pool", pytest.param("ray", marks=pytest.mark.soak)])
def cluster(request):
    if request.param == "threads":
        return InProcess(2)
    return request.getfixturevalue("pool" if request.param == "pool" else "ray_cluster")


def test_results_come_in_the_order_of_the_items(cluster):
    assert list(cluster.map(square, range(100))) == [square(number) for number in range(100)]
    assert list(cluster.map(square, [])) == []


def test_an_error_of_an_item_is_raised_as_it_is_and_the_next_call_works(cluster):
    with pytest.raises(DataError, match="three") as refused:
        list(cluster.map(refuse, range(10)))

    assert (refused.value.where, refused.value.hint) == ("test", "Give another.")
    assert list(cluster.map(square, [5])) == [25]


def test_how_much_is_done_is_told(cluster):
    told = []

    list(cluster.map(square, range(30), name="squares", progress=lambda *done: told.append(done)))

    assert told[-1] == ("squares", 30, 30)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_results_that_nobody_takes_hold_further_items_back(tmp_path):
    with Pool(2) as pool:
        results = pool.map(partial(note_and_die_once, folder=tmp_path), [100 + number for number in range(40)])
        next(results)

        # Batches of five, two for each worker and the one that was taken.
        assert len(list(tmp_path.iterdir())) <= 25
        results.close()


def test_the_processes_of_a_pool_stay_for_the_next_items(pool):
    first = set(pool.map(process_of, range(40)))

    assert set(pool.map(process_of, range(40))) <= first | set(pool.processes)
    assert os.getpid() not in first


def test_a_worker_that_dies_costs_its_own_items_only_and_they_are_done_again(tmp_path):
    with Pool(2) as pool:
        assert list(pool.map(partial(note_and_die_once, folder=tmp_path), range(8))) == list(range(8))

    begun = {int(note.name): len(note.read_text()) for note in tmp_path.iterdir()}
    assert begun == dict.fromkeys(range(8), 1) | {4: 2}


def test_a_worker_that_is_killed_while_it_waits_is_replaced(pool):
    list(pool.map(square, range(4)))
    os.kill(pool.processes[0], signal.SIGKILL)

    assert list(pool.map(square, range(4))) == [0, 1, 4, 9]


def test_items_over_which_every_worker_dies_are_an_error_that_says_so():
    with Pool(1) as pool, pytest.raises(WorkerLostError, match="3 worker processes died"):
        list(pool.map(die, [1]))


def test_an_error_that_cannot_travel_is_told_by_its_name(pool):
    with pytest.raises(RuntimeError, match="UnknownError: unknown"):
        list(pool.map(fail, [1]))


def test_a_closed_pool_leaves_no_process():
    with Pool(2) as pool:
        processes = set(pool.map(process_of, range(4)))

    assert not [process for process in processes if Path(f"/proc/{process}").exists()]


@pytest.mark.soak
def test_a_lost_worker_of_ray_costs_its_own_items_and_they_are_done_again(ray_cluster, tmp_path):
    assert list(ray_cluster.map(partial(note_and_die_once, folder=tmp_path), range(8))) == list(range(8))

    begun = {int(note.name): len(note.read_text()) for note in tmp_path.iterdir()}
    assert begun == dict.fromkeys(range(8), 1) | {4: 2}


@pytest.mark.parametrize(("compute", "form"), [("in_process", InProcess), ("pool", Pool)])
def test_the_setting_chooses_the_form(compute, form):
    made = open_cluster(Settings(compute=compute, compute_workers=3))

    assert type(made) is form
    assert made.workers == 3


def test_without_ray_the_setting_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(ConfigError, match="make setup-ray"):
        open_cluster(Settings(compute="ray"))
