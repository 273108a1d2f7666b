"""Stages at work at the same time: order, read-ahead, errors, and iterators that nobody finishes."""

import functools
import itertools
import subprocess
import sys
import threading

import pytest

from pneumoseg.inference import stages
from pneumoseg.inference.stages import run_stages

WAIT = 30  # seconds until a test that would hang fails


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def plus_one(numbers):
    for number in numbers:
        yield number + 1


def in_pairs(numbers):
    """Yield a chunk's sums of two, and the last number alone if their count is odd."""
    for number in numbers:
        yield number + next(numbers, 0)


def run(items, work, read=int, chunk_size=4, readers=2):
    return run_stages(items, read, work, chunk_size=chunk_size, readers=readers)


def test_no_items():
    assert list(run([], [plus_one])) == []


def test_order_is_kept_when_the_first_item_is_read_last():
    others = threading.Semaphore(0)

    def read(item):
        if item:
            others.release()
        else:
            assert all(others.acquire(timeout=WAIT) for _ in range(3))
        return item

    assert list(run(range(4), [plus_one, plus_one], read)) == [2, 3, 4, 5]


def test_each_stage_sees_whole_chunks():
    # Chunks of 3: (0 + 1), 2, (3 + 4), 5, 6.
    assert list(run(range(7), [in_pairs], chunk_size=3)) == [1, 2, 7, 5, 6]


def test_stages_work_at_the_same_time():
    both = threading.Barrier(2)

    def meeting(numbers, at):
        for number in numbers:
            if number == at:
                both.wait(WAIT)
            yield number

    # The second stage waits with item 1 until the first stage works on item 2, and the other way round.
    work = [lambda numbers: meeting(numbers, 2), lambda numbers: meeting(numbers, 1)]
    assert list(run(range(4), work)) == [0, 1, 2, 3]


def test_an_endless_source_is_taken_in_the_callers_thread_a_chunk_ahead():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(threading.current_thread())
            yield number

    outputs = run(endless(), [plus_one, plus_one])
    for count in range(1, 13):
        assert next(outputs) == count + 1
        assert len(taken) == 4 * ((count - 1) // 4 + 2)
    outputs.close()
    assert set(taken) == {threading.current_thread()}


class Fault(BaseException):
    """Not an `Exception`, as the errors that Ctrl-C and closed generators raise."""


def failing_at(number):
    def check(item):
        if item == number:
            raise Fault
        return item

    return check


@pytest.mark.parametrize("place", ["source", "read", "first stage", "last stage"])
def test_an_error_anywhere_reaches_the_consumer(place):
    source, read, *work = (
        failing_at(9 if name == place else None) for name in ("source", "read", "first stage", "last stage")
    )
    outputs = run(map(source, itertools.count()), [functools.partial(map, stage) for stage in work], read)
    given = []
    with pytest.raises(Fault):
        given.extend(outputs)
    # The chunk of items 8 to 11 is started before that of 4 to 7 is given.
    assert given == list(range(4 if place == "source" else 9))


def test_an_error_of_the_consumer_ends_everything():
    with pytest.raises(Fault):
        list(map(failing_at(6), run(itertools.count(), [plus_one])))


def test_a_closed_iterator_ends_everything():
    outputs = run(itertools.count(), [plus_one, plus_one])
    next(outputs)
    outputs.close()
    assert list(outputs) == []


def test_a_forgotten_iterator_does_not_keep_the_process_from_exiting():
    program = f"""
import itertools, runpy, threading
run_stages = runpy.run_path({stages.__file__!r})["run_stages"]

def held(numbers):
    for number in numbers:
        if number:
            threading.main_thread().join()
        print(number, flush=True)
        yield number

outputs = run_stages(itertools.count(), int, [held, iter], chunk_size=4, readers=2)
next(outputs)
"""
    # The stage is at work on number 1 when the main thread ends, and then stops.
    ended = subprocess.run([sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n1\n", "")
