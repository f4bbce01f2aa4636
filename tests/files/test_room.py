"""Room in memory for large images, which threads and processes share."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import uniemox
from uniemox.files import images, room
from uniemox.files.images import decode_image
from uniemox.files.room import ROOM, Room

SLOT = 16 * 1024**2
LARGE = 40 * SLOT

HOLDER = """
import sys
sys.path.insert(0, {source!r})
from pathlib import Path
from uniemox.files.room import Room
with Room(64 * {slot}, path=Path({path!r})).hold({size}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "room"


def holder(path, size=LARGE):
    source = str(Path(uniemox.__file__).parents[1])
    code = HOLDER.format(source=source, path=str(path), slot=SLOT, size=size)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def wait_for(room, size=LARGE):
    """Take room in a thread; returns the time when it had it, in a list that is empty until then."""
    had = []

    def take():
        with room.hold(size):
            had.append(time.monotonic())

    thread = threading.Thread(target=take)
    thread.start()
    return thread, had


def test_what_fits_is_held_at_once(path):
    shared = Room(64 * SLOT, path=path)
    with shared.hold(LARGE):
        thread, had = wait_for(shared, 24 * SLOT)
        thread.join(10)
        assert had


def test_a_thread_waits_for_another_of_its_process(path):
    shared = Room(64 * SLOT, path=path)
    with shared.hold(LARGE):
        thread, had = wait_for(shared)
        thread.join(0.2)
        assert not had
    thread.join(10)
    assert had


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_process_waits_for_another_however_that_ends(path, how):
    shared = Room(64 * SLOT, path=path)
    with holder(path) as process:
        thread, had = wait_for(shared)
        thread.join(0.2)
        assert not had
        process.kill() if how == "is killed" else process.stdin.close()
        thread.join(10)
        assert had


def test_one_that_takes_more_than_there_is_is_alone(path):
    shared = Room(64 * SLOT, path=path)
    with shared.hold(1000 * SLOT):
        thread, had = wait_for(shared, 3 * SLOT)
        thread.join(0.2)
        assert not had
    thread.join(10)
    assert had


def test_small_images_ask_nobody(path):
    shared = Room(64 * SLOT, path=path)
    with shared.hold(64 * SLOT), shared.hold(2 * SLOT):
        pass
    assert list(path.parent.iterdir()) == [path]


def test_room_is_kept_until_its_use_ends_and_given_back_for_the_next_image(path):
    shared = Room(64 * SLOT, path=path)
    with shared.use():
        with shared.hold(LARGE):
            pass
        thread, had = wait_for(shared)
        thread.join(0.2)
        assert not had
        with shared.hold(LARGE):  # the first is no longer needed: else it would wait for itself
            pass
    thread.join(10)
    assert had


def test_an_error_gives_room_back(path):
    shared = Room(64 * SLOT, path=path)
    with pytest.raises(ZeroDivisionError), shared.use(), shared.hold(LARGE):
        raise ZeroDivisionError
    with shared.hold(LARGE):
        pass


def test_a_holder_that_never_goes_on_is_not_waited_for_for_ever(path, monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.3)
    shared = Room(64 * SLOT, path=path)
    with holder(path) as process:
        os.kill(process.pid, 19)  # SIGSTOP
        thread, had = wait_for(shared)
        thread.join(10)
        assert had
        process.kill()


def test_a_forked_process_holds_nothing_and_can_take_room(path):
    shared = Room(64 * SLOT, path=path)
    with shared.hold(LARGE):
        child = os.fork()
        if child == 0:
            with shared.hold(24 * SLOT):
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("what", ["link", "folder", "open to others"])
def test_a_file_that_others_could_hold_is_not_used(path, what):
    match what:
        case "link":
            path.symlink_to(path.with_name("elsewhere"))
        case "folder":
            path.mkdir()
        case "open to others":
            path.touch(0o666)
            path.chmod(0o666)
    shared = Room(64 * SLOT, path=path)
    with shared.hold(LARGE):
        assert shared._open() is None
    assert not path.with_name("elsewhere").exists()


def test_a_worker_that_is_forked_while_a_thread_decodes_can_decode():
    """A lock that another thread holds at the fork is held for ever in the child."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    with images._quiet_lock, ROOM._turn:
        child = os.fork()
        if child == 0:
            with ROOM.hold(LARGE):
                os._exit(7 if decode_image(file.getvalue()).size == (4, 4) else 1)
    until = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 7


PEAK = """
import re, sys, threading
from pathlib import Path
from uniemox.files.images import decode_image
from uniemox.files.room import ROOM

data = Path(sys.argv[1]).read_bytes()

@ROOM.use()
def work():
    image = decode_image(data)
    image.resize((224, 224))

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_four_threads_with_88_megapixels_each_stay_within_the_room(tmp_path):
    ramp = Image.linear_gradient("L").resize((9400, 9400))
    Image.merge("RGBA", (ramp,) * 4).save(tmp_path / "ramp.png")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "ramp.png")], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 1.2e6  # kB; one alone takes .8 GB, and four had 6.7 GB before they shared the room
