"""Frames of videos: through the ffmpeg of this machine where there is one, and through a script in its place."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from uniemox.errors import DataError
from uniemox.files.images import Unreadable
from uniemox.files.video import MAX_SIDE, Frame, find_ffmpeg, is_video_name, read_frame, read_frames

with_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg on this machine")


def make_video(path, *, count=45, size=(64, 48), options=("-c:v", "ffv1")):
    """Ten images a second, each of one grey: five times its number."""
    width, height = size
    raw = b"".join(np.full((height, width, 3), 5 * index, np.uint8).tobytes() for index in range(count))
    given = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "10", "-i", "-")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *given, *options, f"file:{path}"], input=raw, check=True)
    return path


def number_of(frame):
    return round(float(frame.pixels.mean()) / 5)


# With the program of this machine


@with_ffmpeg
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_one_frame_is_that_of_all_frames_at_its_time(tmp_path, name):
    path = make_video(tmp_path / name, options=() if name == "a.mp4" else ("-c:v", "ffv1"))
    for frame in read_frames(path, fps=2):
        assert np.abs(read_frame(path, frame.time).mean() - frame.pixels.mean()) < 3
    assert isinstance(read_frame(path, 100.0), Unreadable)


@with_ffmpeg
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.webm", "a.mov"])
@pytest.mark.parametrize("fps", [0.5, 1, 2.5])
def test_a_frame_is_what_the_video_shows_at_its_time(tmp_path, name, fps):
    codec = {"a.mkv": "ffv1", "a.mp4": "mpeg4", "a.avi": "ffv1", "a.webm": "libvpx", "a.mov": "png"}[name]
    frames = list(read_frames(make_video(tmp_path / name, options=("-c:v", codec, "-b:v", "4M")), fps=fps))
    times = np.arange(0, 4.5, 1 / fps)
    assert [frame.time for frame in frames] == pytest.approx(times)
    shown = [number_of(frame) for frame in frames]
    assert shown == [int(moment * 10 + 1e-9) for moment in times]
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}


@with_ffmpeg
def test_more_frames_than_the_video_has_show_each_as_long_as_it_lasts(tmp_path):
    frames = list(read_frames(make_video(tmp_path / "a.mkv", count=4), fps=20))
    assert [number_of(frame) for frame in frames] == [0, 0, 1, 1, 2, 2, 3, 3]


@with_ffmpeg
def test_frames_are_no_larger_than_a_model_needs_and_their_pixels_are_square(tmp_path):
    large = make_video(tmp_path / "large.mkv", count=1, size=(2 * MAX_SIDE, 720))
    assert next(read_frames(large, fps=1)).pixels.shape == (360, MAX_SIDE, 3)
    flat = make_video(tmp_path / "flat.mkv", count=1, options=("-vf", "setsar=2", "-c:v", "ffv1"))
    assert next(read_frames(flat, fps=1)).pixels.shape == (48, 128, 3)


@with_ffmpeg
def test_a_name_is_never_an_option_or_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make_video(tmp_path / "made.mkv", count=1)
    for name in ("-version", "concat:made.mkv|made.mkv", "http:a.mkv", "%d.mkv", "a b'c.mkv"):
        made.rename(name)
        made = Path(name)
        (frame,) = read_frames(made, fps=1)
        assert number_of(frame) == 0


@with_ffmpeg
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile made.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nmade.mkv\n#EXT-X-ENDLIST\n",
        "no video at all",
        "",
    ],
)
def test_a_list_that_is_named_like_a_video_opens_nothing(tmp_path, text):
    make_video(tmp_path / "made.mkv", count=1)
    (tmp_path / "a.mp4").write_text(text)
    (found,) = read_frames(tmp_path / "a.mp4", fps=1)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith("no video that is read: ")
    assert str(tmp_path) not in found.reason


@with_ffmpeg
def test_sound_alone_is_no_video(tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=duration=0.1")
    subprocess.run(["ffmpeg", "-loglevel", "error", *sound, str(tmp_path / "a.mkv")], check=True)
    (found,) = read_frames(tmp_path / "a.mkv", fps=1)
    assert found.reason == "no video that is read: no pictures in it, but perhaps sound"


# With a script in its place, everywhere


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a program called ffmpeg before all others, which runs some lines of Python."""

    def put(*lines):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "ffmpeg"
        code = "\n".join(lines)
        program.write_text(f"#!{sys.executable}\nimport os, sys, time\nout = sys.stdout.buffer\n{code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return program

    return put


IMAGE = "out.write(b'P6\\n3 2\\n255\\n' + bytes(range(18)))"


def test_images_come_from_the_output_of_the_program(script):
    script(IMAGE, IMAGE)
    first, second = read_frames(Path("a.mp4"), fps=4)
    assert isinstance(first, Frame)
    assert (first.time, second.time) == (0, 0.25)
    np.testing.assert_array_equal(second.pixels, np.arange(18, dtype=np.uint8).reshape(2, 3, 3))


def test_the_program_gets_a_list_of_words_and_no_input(script, tmp_path, monkeypatch):
    script("open('words', 'w').write('\\n'.join(sys.argv[1:]))", "assert not sys.stdin.read()", IMAGE)
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(Path("-y; rm $(x).mp4"), fps=0.1))) == 1
    words = Path("words").read_text().splitlines()
    assert words[words.index("-i") + 1] == f"file:{tmp_path / '-y; rm $(x).mp4'}"
    assert words[words.index("-protocol_whitelist") + 1] == "file,pipe"
    assert words[words.index("-vf") + 1].startswith("fps=fps=1/10:")
    assert "-nostdin" in words


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["sys.exit('first\\nlast line')"], "no video that is read: last line"),
        (["sys.exit(3)"], "no video that is read: ffmpeg ended with 3"),
        ([""], "no video that is read: the video has no image"),
        (["out.write(b'P5\\n3 2\\n255\\n' + bytes(18))"], "no video that is read: the video has no image"),
        (["out.write(b'P6\\n99999 2\\n255\\n' + bytes(18))"], "no video that is read: the video has no image"),
        (["out.write(b'\\xff' * 100)"], "no video that is read: the video has no image"),
        (["sys.stderr.write('x' * 300_000)", "sys.exit(1)"], "no video that is read: " + "x" * 200),
    ],
)
def test_what_gives_no_image_has_the_last_line_for_its_reason(script, lines, reason):
    script(*lines)
    (found,) = read_frames(Path("a.mp4"), fps=1)
    assert found == Unreadable(reason)


def test_a_video_that_breaks_off_gives_what_it_has_and_then_the_reason(script):
    script(IMAGE, IMAGE, "out.write(b'P6\\n3 2\\n255\\n1234')", "out.flush()", "sys.exit('damaged')")
    first, second, reason = read_frames(Path("a.mp4"), fps=1)
    assert (first.time, second.time) == (0, 1)
    assert reason == Unreadable("the video breaks off after 2 frames: damaged")


def test_whoever_has_enough_ends_the_program(script, tmp_path):
    ended = tmp_path / "pid"
    script(f"open({str(ended)!r}, 'w').write(str(os.getpid()))", "while True:", f"    {IMAGE}")
    frames = read_frames(Path("a.mp4"), fps=1)
    next(frames)
    process = int(ended.read_text())
    os.kill(process, 0)
    started = time.monotonic()
    frames.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert time.monotonic() - started < 5


def test_no_more_is_read_than_is_asked_for(script, tmp_path):
    count = tmp_path / "count"
    script("for n in range(10**6):", f"    {IMAGE}; out.flush(); open({str(count)!r}, 'w').write(str(n))")
    frames = read_frames(Path("a.mp4"), fps=1)
    next(frames)
    time.sleep(0.3)
    assert int(count.read_text() or 0) < 10_000  # what the pipe between the two holds
    frames.close()


def test_without_the_program_one_line_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (find_ffmpeg, lambda: next(read_frames(Path("a.mp4"), fps=1))):
        with pytest.raises(
            DataError, match=r"ffmpeg, which is not installed: `apt install ffmpeg`, .*`winget "
        ) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_program_that_is_none_is_an_error_of_one_line(script):
    script("").write_text("no program")
    with pytest.raises(DataError, match="cannot be started: exec format error"):
        next(read_frames(Path("a.mp4"), fps=1))


def test_videos_are_known_by_their_names():
    assert is_video_name("in/A.MP4")
    assert is_video_name("a.webm")
    assert not any(map(is_video_name, ("a.gif", "a.jpg", "mp4", "a.mp4.txt")))
