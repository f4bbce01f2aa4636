"""Files and folders that appear whole or not at all, whatever happens while they are written."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import uniemox
from uniemox.errors import ConfigError, DataError
from uniemox.files import whole
from uniemox.files.whole import check_absent, is_unfinished, replace_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from uniemox.errors import DataError
from uniemox.files.whole import replace_folder, write_whole

with write_whole(Path(sys.argv[1]), DataError) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.txt"


def write(path, text="new"):
    with write_whole(path, DataError) as beside:
        beside.write_text(text)


def fill(folder, text="new"):
    with replace_folder(folder, DataError) as beside:
        (beside / "below").mkdir()
        (beside / "below" / "t.txt").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folder_are_made(tmp_path):
    write(tmp_path / "none" / "below" / "t.txt")
    assert (tmp_path / "none/below/t.txt").read_text() == "new"
    assert names(tmp_path / "none/below") == ["t.txt"]


def test_the_old_file_is_there_until_the_block_ends(path):
    path.write_text("old")
    with write_whole(path, DataError) as beside:
        beside.write_text("new")
        assert is_unfinished(beside)
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_unfinished_file_may_lie_elsewhere(path, tmp_path):
    (tmp_path / "parts").mkdir()
    with write_whole(path, DataError, inside=tmp_path / "parts") as beside:
        beside.write_text("new")
        assert beside.parent == tmp_path / "parts"
    assert names(tmp_path) == ["parts", "t.txt"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, DataError])
def test_an_end_before_the_end_leaves_the_old(tmp_path, path, stop):
    path.write_text("old")
    fill(tmp_path / "folder", "old")

    def end(beside):
        (beside / "t.txt" if beside.is_dir() else beside).write_text("half")
        raise stop

    with pytest.raises(stop), write_whole(path, DataError) as beside:
        end(beside)
    with pytest.raises(stop), replace_folder(tmp_path / "folder", DataError) as beside:
        end(beside)
    assert path.read_text() == "old"
    assert names(tmp_path / "folder") == ["below"]
    assert names(tmp_path) == ["folder", "t.txt"]


def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("use", "where", "name"),
    [(write, os, "fsync"), (write, Path, "replace"), (fill, os, "fsync"), (fill, Path, "rename")],
)
def test_a_disk_that_is_full_at_the_end_leaves_the_old_and_says_the_next_step(tmp_path, monkeypatch, use, where, name):
    target = tmp_path / "target"
    use(target, "old")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        with pytest.raises(DataError) as told:
            use(target)
    assert str(told.value) == (
        f"{target} cannot be written: no space is left on the device. Free space or choose another place"
    )
    assert (target if use is write else target / "below/t.txt").read_text() == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("use", [write, fill])
def test_a_file_where_a_folder_is_needed_is_named(tmp_path, use):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file, not a folder"):
        use(tmp_path / "file" / "target")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_old_folder_comes_back_where_the_new_one_is_not_put(tmp_path, monkeypatch, moment):
    rename, folder = Path.rename, tmp_path / "folder"
    fill(folder, "old")

    def interrupt(self, target):
        is_new = Path(target) == folder and not self.name.endswith(whole.OLD_SUFFIX)
        if is_new and moment == "before":
            raise KeyboardInterrupt
        rename(self, target)
        if is_new:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fill(folder)
    assert (folder / "below/t.txt").read_text() == ("old" if moment == "before" else "new")


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask_whatever_a_library_chose(tmp_path, path, umask):
    before = os.umask(umask)
    try:
        write(path)
        with replace_folder(tmp_path / "folder", DataError) as beside:
            (beside / "private").touch(mode=0o600)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "folder/private").stat().st_mode & 0o777 == 0o666 & ~umask


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps, replace, rename = [], Path.replace, Path.rename
    monkeypatch.setattr(whole, "flush", lambda path: steps.append(("flush", path.name[:3])))
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append(("name", to.name)), replace(self, to))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (steps.append(("name", to.name)), rename(self, to))[1])
    write(tmp_path / "t.txt")
    where = tmp_path.name[:3]
    assert steps == [("flush", ".t."), ("name", "t.txt"), ("flush", where)]
    steps.clear()
    fill(tmp_path / "folder")
    *inside, own, name, above = steps
    assert sorted(inside) == [("flush", "bel"), ("flush", "t.t")]
    assert [own, name, above] == [("flush", ".fo"), ("name", "folder"), ("flush", where)]


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_and_one_that_is_known_as_unfinished(tmp_path, path):
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])},
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = (other for other in tmp_path.iterdir() if other != path)
    assert is_unfinished(left)


FOLDER = """
import os, signal, sys
from pathlib import Path
from uniemox.errors import DataError
from uniemox.files.whole import replace_folder

with replace_folder(Path(sys.argv[1]), DataError) as beside:
    (beside / "half").write_text("half")
    print("go", flush=True)
    sys.stdin.read()
"""


def start(script, target):
    """Start a writer that waits in the middle."""
    words, source = [sys.executable, "-c", script, str(target)], str(Path(uniemox.__file__).parents[1])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(words, **pipes, text=True, env={**os.environ, "PYTHONPATH": source})
    assert child.stdout.readline() == "go\n"
    return child


HELD = FOLDER.replace("replace_folder", "write_whole").replace('(beside / "half")', "beside")


@pytest.mark.parametrize(("script", "use"), [(FOLDER, fill), (HELD, write)])
def test_what_a_killed_writer_left_is_cleared_by_the_next_and_what_a_living_one_holds_stays(tmp_path, script, use):
    target = tmp_path / "target"
    killed, living = start(script, target), start(script, target)
    try:
        assert len(names(tmp_path)) == 2
        killed.kill()
        killed.wait()
        use(target)
        assert len(names(tmp_path)) == 2
        assert "target" in names(tmp_path)
        living.communicate("")
        assert living.returncode == 0
        assert names(tmp_path) == ["target"]
        assert (target / "half" if use is fill else target).read_text() == "half"
    finally:
        for child in (killed, living):
            child.kill()
            child.communicate()


def test_what_is_not_surely_ours_stays(tmp_path):
    theirs = [
        *(".target.0a1b2c3.writing", ".target.0a1b2c3d.writing2", ".other.0a1b2c3d.writing", "target.0a1b2c3d.writing"),
        *(".target.0a1b2c3g.writing", ".target.x.0a1b2c3d.writing", ".targets.0a1b2c3d.writing"),
    ]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / ".target.00000000.writing").symlink_to(tmp_path / "home")
    (tmp_path / ".target.11111111.writing").mkdir()
    (tmp_path / ".target.22222222.writing").touch()
    os.mkfifo(tmp_path / ".target.33333333.writing")
    fill(tmp_path / "target")
    assert names(tmp_path) == sorted([*theirs, "home", ".target.00000000.writing", "target"])


def test_the_former_folder_stays_until_there_is_a_new_one(tmp_path):
    for name in (".target.11111111.writing", ".target.11111111.writing.old"):
        (tmp_path / name).mkdir()
    with replace_folder(tmp_path / "target", DataError):
        assert {".target.11111111.writing", ".target.11111111.writing.old"} < set(names(tmp_path))
    fill(tmp_path / "target")
    assert names(tmp_path) == ["target"]


def test_nothing_is_cleared_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / ".target.11111111.writing").mkdir()
    fill(tmp_path / "target")
    assert names(tmp_path) == [".target.11111111.writing", "target"]


def test_a_writer_whose_place_was_cleared_before_it_was_held_takes_another(tmp_path, monkeypatch):
    hold, cleared = whole._hold, []

    def clear_once(path, **how):
        if not cleared:
            cleared.append(path)
            path.rmdir()
        return hold(path, **how)

    monkeypatch.setattr(whole, "_hold", clear_once)
    fill(tmp_path / "target")
    assert len(cleared) == 1
    assert names(tmp_path) == ["target"]


def test_a_writer_waits_for_one_that_clears_its_place(tmp_path, monkeypatch):
    hold, clearing = whole._hold, []

    def held_by_another(path, **how):
        if not clearing:
            handle = hold(path)

            def clear():
                path.rmdir()
                os.close(handle)

            clearing.append(threading.Timer(0.2, clear))
            clearing[0].start()
        return hold(path, **how)

    monkeypatch.setattr(whole, "_hold", held_by_another)
    with replace_folder(tmp_path / "target", DataError) as beside:
        clearing[0].join()
        (beside / "t.txt").write_text("new")
    assert names(tmp_path) == ["target"]


def test_a_file_that_exists_is_in_the_way_unless_it_is_to_be_overwritten(path):
    check_absent(path, overwrite=False)
    check_absent(None, overwrite=False)
    write(path)
    check_absent(path, overwrite=True)
    with pytest.raises(ConfigError, match=r"t\.txt exists; `overwrite` replaces it"):
        check_absent(path, overwrite=False)
