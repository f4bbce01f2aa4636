"""Frames of a video through the system's `ffmpeg`, one after the other through a pipe.

The program is called without a shell, reads this one local file by the container formats of videos alone (a playlist
named like a video opens nothing), and is ended with whoever reads the frames. The options were tried with ffmpeg 5.1;
all of them are older than 4.0 (https://ffmpeg.org/ffmpeg-all.html).
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path, PurePath
from typing import IO, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from uniemox.errors import DataError
from uniemox.files.images import MAX_PIXELS, Unreadable
from uniemox.wording import counted, one_line, reason_of

VIDEO_EXTENSIONS: Final = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".ogv"),
        *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    )
)  # Endings in lower case; a GIF is an image, of which the first frame is read
MAX_SIDE: Final = 1280  # Pixels of the longer side of a frame; larger ones are shrunk, since no model reads as much
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf"  # As ffmpeg calls its readers
_FINEST: Final = 10**6  # Largest denominator of frames per second
_HEADER: Final = re.compile(rb"P6 (\d{1,5}) (\d{1,5}) 255", re.ASCII)  # The first three lines of Netpbm's PPM, joined
_LAST: Final = 4096  # Bytes of what ffmpeg says of which the last line is read
_LONGEST_REASON: Final = 200
_PATIENCE: Final = 10.0  # Seconds for a program that was killed to be gone


class Frame(NamedTuple):
    """One image of a video."""

    time: float  # In seconds from the start
    pixels: npt.NDArray[np.uint8]  # (height, width, 3), RGB, upright, no side longer than `MAX_SIDE`


def is_video_name(name: str) -> bool:
    """Whether the name of a file ends like that of a video."""
    return PurePath(name).suffix.lower() in VIDEO_EXTENSIONS


def find_ffmpeg() -> str:
    """Find the program, or raise `DataError`, which says how to install it."""
    found = shutil.which("ffmpeg")
    if found is None:
        raise DataError(
            "videos are read through ffmpeg, which is not installed: `apt install ffmpeg`, `dnf install ffmpeg-free`, "
            "`brew install ffmpeg` or `winget install ffmpeg`"
        )
    return found


def read_frame(path: Path, time: float) -> npt.NDArray[np.uint8] | Unreadable:
    """Read the image that a video shows at a time in seconds, as `read_frames` would, without reading all before it."""
    with closing(read_frames(path, fps=1, start=time)) as frames:
        found = next(frames)
    return found if isinstance(found, Unreadable) else found.pixels


def read_frames(path: Path, *, fps: float, start: float = 0) -> Generator[Frame | Unreadable, None, None]:
    """Yield the image that a video shows at every 1/fps seconds; whoever has enough closes it.

    Times count from `start`, in seconds from the start of the video.

    Where the video cannot be read, or not to its end, the last item is the reason.

    Raises:
        DataError: There is no ffmpeg.
    """
    program, rate = find_ffmpeg(), Fraction(str(fps)).limit_denominator(_FINEST)
    count = 0
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                _command(program, path, rate, start), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        except OSError as error:
            raise DataError(f"{program} cannot be started: {reason_of(error)}") from error
        with process:
            assert process.stdout is not None
            try:
                while (pixels := _read_image(process.stdout)) is not None:
                    yield Frame(float(count / rate), pixels)
                    count += 1
                code = process.wait()
            finally:  # also where the reader has enough, or is interrupted
                process.kill()
                process.stdout.close()
                process.wait(_PATIENCE)
        if code or not count:
            yield Unreadable(_explain(said, code, count, path))


def _command(program: str, path: Path, rate: Fraction, start: float) -> list[str]:
    """List the words that make ffmpeg write images of a file to its output.

    Of the filters, `fps` with these options takes the last image at or before each moment, the first `scale` makes
    pixels square, and the second one shrinks. The prefix keeps a name from being an option or a protocol.
    """
    filters = (
        f"fps=fps={rate.numerator}/{rate.denominator}:start_time=0:round=up,"
        "scale=w='max(1,trunc(iw*sar))':h=ih,setsar=1,"
        f"scale=w='min({MAX_SIDE},iw)':h='min({MAX_SIDE},ih)':force_original_aspect_ratio=decrease"
    )
    return [
        *(program, "-nostdin", "-hide_banner", "-loglevel", "error"),
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", _FORMATS, "-max_pixels", str(MAX_PIXELS)),
        *(("-ss", f"{start:f}") if start else ()),
        *("-i", f"file:{path.absolute()}", "-map", "0:V:0", "-vf", filters),
        *("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"),
    ]


def _read_image(stream: IO[bytes]) -> npt.NDArray[np.uint8] | None:
    """Read one image in PPM; None at the end, or where the rest is none."""
    lines = [stream.readline(20).strip() for _ in range(3)]
    found = _HEADER.fullmatch(b" ".join(lines))
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        return None
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _explain(said: IO[bytes], code: int, count: int, path: Path) -> str:
    """Quote the last line of what ffmpeg said, without the path, which whoever shows it knows."""
    said.seek(max(0, said.seek(0, 2) - _LAST))
    text = said.read().decode("utf-8", "replace")
    lines = [one_line(line) for line in text.splitlines() if line.strip()]
    why = lines[-1].removeprefix(f"file:{path.absolute()}: ")[:_LONGEST_REASON] if lines else ""
    if "matches no streams" in text:
        why = "no pictures in it, but perhaps sound"
    why = why or (f"ffmpeg ended with {code}" if code else "the video has no image")
    return f"the video breaks off after {counted(count, 'frame')}: {why}" if count else f"no video that is read: {why}"
