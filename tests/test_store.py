import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from unlearn.errors import StoreError, UnknownName
from unlearn.store import STALE_DRAFT, Store, address

RECIPE = {"what": "toy", "seed": 1}


def write(text):
    return lambda folder: (folder / "data.txt").write_text(text)


def test_address_does_not_depend_on_the_order_of_keys():
    assert address({"a": 1, "b": [2]}) == address({"b": [2], "a": 1}) != address({"a": 1, "b": [3]})


def test_a_result_is_made_once_and_found_again(tmp_path):
    store, calls = Store(tmp_path), []

    def make(folder):
        calls.append(1)
        write("x")(folder)

    first = store.build("report", RECIPE, make)
    assert store.build("report", RECIPE, make) == first == store.find("report", RECIPE)
    assert len(calls) == 1
    assert json.loads((first / "recipe.json").read_text()) == RECIPE


def test_nothing_is_published_when_making_fails(tmp_path):
    store = Store(tmp_path)

    def broken(folder):
        write("half")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build("report", RECIPE, broken)
    assert store.find("report", RECIPE) is None
    assert not list(tmp_path.glob(".draft-*"))
    store.build("report", RECIPE, write("whole"))


def test_damage_is_found(tmp_path):
    store = Store(tmp_path)
    path = store.build("report", RECIPE, write("x"))
    (entry,) = store.entries()
    assert store.damage(entry) == []
    (path / "data.txt").write_text("y")
    assert store.damage(entry) == ["data.txt"]
    (path / "data.txt").unlink()
    assert store.damage(entry) == ["data.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        StoreError, match=r"cannot write the store at .*No space left on device; free space or choose"
    ):
        store.build("report", RECIPE, full)
    assert not list(store.entries())


def test_a_store_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write the store"):
        Store(tmp_path / "file" / "store").build("report", RECIPE, write("x"))


def test_prefixes_name_one_result_or_are_refused(tmp_path):
    store = Store(tmp_path)
    store.build("report", RECIPE, write("x"))
    assert store.named("report", address(RECIPE)[:6]).address == address(RECIPE)
    with pytest.raises(UnknownName, match="no report with an address that begins with 'zz'"):
        store.named("report", "zz")


def test_only_old_drafts_are_garbage(tmp_path):
    old, new = tmp_path / ".draft-old", tmp_path / ".draft-new"
    old.mkdir()
    new.mkdir()
    before = time.time() - STALE_DRAFT - 60
    os.utime(old, (before, before))
    assert Store(tmp_path).drafts() == [old]


def _slow(root, queue):
    def make(folder):
        queue.put(os.getpid())
        time.sleep(0.5)
        write("x")(folder)

    Store(Path(root)).build("report", RECIPE, make)


def test_two_processes_on_one_store_do_the_work_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_slow, args=(str(tmp_path), queue)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    queue.get(timeout=5)
    assert queue.empty()
    assert len(list(Store(tmp_path).entries())) == 1
