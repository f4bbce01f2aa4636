"""Which images show the same, though they were resized, recompressed, mirrored, cropped, greyed or written upon.

An image is represented by its thumbnail alone, 48 × 48 grey pixels. Two steps find the pairs (DECISIONS 34):

1. Looking up. The signs of low cosine coefficients are an image's code. The code of every whole image is looked up
   among those of windows of all images, in hash tables over different bits of it, also with its least certain bits
   turned. Only coefficients that are even from left to right are used, so a mirrored image has the same code. Matches
   are compared in all bits, then in all coefficients.
2. Laying upon. One image is laid on the other by a few robust steps of Gauss and Newton over position and size
   (Lucas and Kanade 1981), then their details are correlated place by place (the structure term of SSIM, Wang et al.
   2004). Different images of like composition fail here, since their details do not agree.

One image must lie inside the other, up to a few per cent: two that merely overlap are two views. Images almost
without detail, such as a clear sky, cannot be distinguished by any of this, so they are never linked. Nothing is
compared with everything: an image meets at most `_MOST_MATCHES` entries of one key, time is that of sorting but for
pairs that agree in all bits of a table by chance, about one in 2¹⁸, and memory is 2.6 kB an image and the pairs found.

Letters of shapes: `N` images, `M` pairs, `S` side of a thumbnail, `G` side of the grid on which pairs are compared,
`K` coefficients, `T` bits of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, cast

import numpy as np
from PIL import Image
from scipy import ndimage

from uniemox.config.audit import LIKE
from uniemox.files.progress import Track, untracked

SIDE: Final = 48  # of a thumbnail, in pixels
SHRINK_TO: Final = 2 * SIDE  # side to which a JPEG may be reduced while it is decoded

_FRAME_TOLERANCE: Final = 12  # grey levels: what JPEG's ringing leaves in a frame
_WIDEST_FRAME: Final = 0.2  # of a side

# Looking up. Chosen on one set of photographs, where every changed copy that was found had a nearness above 0.8.
_FREQUENCIES: Final = 8  # cosines along a side
_TABLES: Final = 20
_BITS: Final = 18  # of the 31 even signs, in a table's key
_TURNED: Final = 3  # least certain bits of a key, of which every choice is tried
_MOST_MATCHES: Final = 64  # of one key, so that thousands of equal codes cost no more than their number
_MOST_BITS_APART: Final = 9
_NEAR: Final = 0.7
_QUERIES: Final = 1 << 16  # images, then pairs, that are held at once
_COMPARED: Final = 1 << 16

# Laying upon.
_GRID: Final = 32
_BLURS: Final = (1.5, 0.6)  # cells: coarse steps reach farther, fine ones end nearer
_STEPS: Final = 4  # of each blur
_LARGEST_STEP: Final = 0.04
_ROOM: Final = 0.04  # how far a window may reach over the edges, as a share of the side
_SMALLEST: Final = 0.6
_DETAIL: Final = 2.0  # grey levels around a cell below which it counts as plain
_LEAST_DETAILED: Final = 0.15  # of the cells
_CAPTION: Final = 7  # cells: an eighth of the height, and as far as its edge is felt
_ROWS: Final = (slice(None), slice(None, -_CAPTION), slice(_CAPTION, None))
_LAID: Final = 128  # pairs at once: as many as the cache of a core holds


class Window(NamedTuple):
    """Part of an image, in shares of its sides."""

    x0: float = 0.0
    x1: float = 1.0
    y0: float = 0.0
    y1: float = 1.0


_WHOLE: Final = Window()
_WINDOWS: Final = (
    _WHOLE,
    # the same off all sides
    *(Window(cut, 1 - cut, cut, 1 - cut) for cut in (0.04, 0.08, 0.12, 0.16)),
    # off one side, or off two that meet
    *(Window(x0=x0, x1=x0 + 0.88) for x0 in (0.0, 0.12)),
    *(Window(y0=y0, y1=y0 + 0.88) for y0 in (0.0, 0.12)),
    *(Window(x0, x0 + 0.87, y0, y0 + 0.87) for x0 in (0.0, 0.13) for y0 in (0.0, 0.13)),
    # 4:3 and 3:2 made square
    *(Window(x0=cut, x1=1 - cut) for cut in (0.1, 0.167)),
    *(Window(y0=cut, y1=1 - cut) for cut in (0.1, 0.167)),
)  # Parts of an image that another may be; laying upon finds those in between
_UNWRITTEN: Final = (Window(y1=0.85), Window(y0=0.15))  # Looked up among the same parts: captions are at an edge


class Links(NamedTuple):
    """Pairs of images that show the same, each once."""

    first: np.ndarray  # (M,) int64
    second: np.ndarray  # (M,) int64, larger than `first`
    likeness: np.ndarray  # (M,) float, from `LIKE` to 1
    mirrored: np.ndarray  # (M,) bool


def shrink(image: Image.Image) -> np.ndarray:
    """Make the thumbnail of an image, without a frame of one colour: (S, S) uint8."""
    grey = image.convert("L")
    pixels = np.asarray(grey)
    left, right = _inside_bars(pixels.T)
    top, bottom = _inside_bars(pixels)
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX, box=(left, top, right, bottom)))


def _inside_bars(lines: np.ndarray) -> tuple[int, int]:
    """Find where an image starts and ends between bars of one colour, from its first line to its last."""
    low, high = lines.min(axis=1).astype(int), lines.max(axis=1).astype(int)

    def bar(order: slice) -> int:
        plain = np.maximum.accumulate(high[order]) - np.minimum.accumulate(low[order])
        width = int(np.searchsorted(plain, _FRAME_TOLERANCE, side="right"))
        # What is plain for longer is the image's own sky or wall.
        return width if width <= int(len(lines) * _WIDEST_FRAME) else 0

    return bar(slice(None)), len(lines) - bar(slice(None, None, -1))


def find_links(thumbs: np.ndarray, *, like: float = LIKE, track: Track = untracked) -> Links:
    """Find the pairs of images that show the same.

    Args:
        thumbs: (N, S, S) uint8, from `shrink`.
        like: Minimum likeness of a pair.
        track: Shows the progress.
    """
    near = _find_near(thumbs, track)
    batches = [near.part(slice(start, start + _LAID)) for start in range(0, len(near.whole), _LAID)]
    with ThreadPoolExecutor() as threads:  # NumPy and SciPy let them run side by side
        measured = threads.map(lambda pairs: _measure_likeness(thumbs, pairs), batches)
        values = list(track(measured, total=len(batches), what="batches of pairs compared"))
    likeness = np.concatenate([np.empty(0), *values])
    kept = likeness >= like
    ends = np.sort(np.stack([near.whole, near.within], axis=1)[kept], axis=1)
    return Links(ends[:, 0], ends[:, 1], likeness[kept], near.mirrored[kept])


def _find_near(thumbs: np.ndarray, track: Track) -> _Pairs:
    looks = (*_WINDOWS, *_UNWRITTEN)
    whole = _Codes.of(thumbs, _WHOLE)
    ints = np.empty(0, np.int64)
    near = _Pairs(ints, ints, ints, np.empty(0, bool), np.empty(0, np.float32))
    for number, window in track(enumerate(looks), total=len(looks), what="parts of images looked up"):
        entries = _Codes.of(thumbs, window)
        is_part = number < len(_WINDOWS)
        found = _look_up(whole if is_part else entries, entries, window=number if is_part else 0)
        near = near.joined_with(found)
    return near


class _Codes(NamedTuple):
    """Cosine coefficients of a window of every image, whitened and of length 1, and their signs."""

    values: np.ndarray  # (N, K) float32
    signs: np.ndarray  # (N,) uint32, of the coefficients that are even from left to right

    @staticmethod
    def of(thumbs: np.ndarray, window: Window) -> _Codes:
        down, across = _cosines(window.y0, window.y1), _cosines(window.x0, window.x1)
        values = np.empty((len(thumbs), len(_FREQUENCY)), np.float32)
        for start in range(0, len(thumbs), _QUERIES):
            some = slice(start, start + _QUERIES)
            squares = down @ thumbs[some].astype(np.float32) @ across.T
            values[some] = squares.reshape(len(squares), -1)[:, 1:] * _FREQUENCY
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
        signs = (values[:, _EVEN] > 0) @ (np.uint32(1) << np.arange(len(_EVEN), dtype=np.uint32))
        return _Codes(values, signs)


def _cosines(low: float, high: float) -> np.ndarray:
    """Integrate the cosines of a window over the pixels of a thumbnail's side: (frequencies, S)."""
    edges = np.clip((np.arange(SIDE + 1) / SIDE - low) / (high - low), 0, 1)
    waves = np.pi * np.arange(1, _FREQUENCIES)[:, None]
    steps = np.concatenate([np.diff(edges)[None], np.diff(np.sin(waves * edges) / waves)])
    return steps.astype(np.float32)


_DOWN, _ACROSS = np.divmod(np.arange(1, _FREQUENCIES**2), _FREQUENCIES)
_FREQUENCY = np.hypot(_DOWN, _ACROSS).astype(np.float32)  # (K,); spectra of images fall with it, so it whitens them
_EVEN = np.flatnonzero(_ACROSS % 2 == 0)
_ODD = np.flatnonzero(_ACROSS % 2 == 1)


class _Pairs(NamedTuple):
    """Pairs that are near in their coefficients, each once."""

    whole: np.ndarray  # (M,) int64, the image that may be a part of the other
    within: np.ndarray  # (M,) int64, the other
    window: np.ndarray  # (M,) int64, number of the part that it may be
    mirrored: np.ndarray  # (M,) bool
    nearness: np.ndarray  # (M,) float32, correlation of the coefficients

    def part(self, some: slice | np.ndarray) -> _Pairs:
        return _Pairs(*(column[some] for column in self))

    def joined_with(self, others: Sequence[_Pairs]) -> _Pairs:
        """Join the pairs of all, each with its nearest window."""
        pairs = _Pairs(*map(np.concatenate, zip(self, *others, strict=True)))
        low, high = np.minimum(pairs.whole, pairs.within), np.maximum(pairs.whole, pairs.within)
        order = np.lexsort((pairs.window, -pairs.nearness, high, low))
        low, high = low[order], high[order]
        is_first = (np.diff(low, prepend=-1) != 0) | (np.diff(high, prepend=-1) != 0)
        return pairs.part(order[is_first])


def _look_up(codes: _Codes, entries: _Codes, *, window: int) -> list[_Pairs]:
    """Look every whole image up among the entries of one window, table by table."""
    found = []
    generator = np.random.default_rng(0)  # for the bits of a table: any choice will do
    for _ in range(_TABLES):
        bits = generator.permutation(len(_EVEN))[:_BITS].astype(np.uint32)
        mask = np.bitwise_or.reduce(np.uint32(1) << bits)
        keys = entries.signs & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for start in range(0, len(keys), _QUERIES):
            for asked in _turned_keys(codes, bits, mask, slice(start, start + _QUERIES)):
                whole, within = _matches(asked, keys, order)
                found.append(_near_pairs(codes, entries, whole + start, within, window))
    return found


def _turned_keys(codes: _Codes, bits: np.ndarray, mask: np.uint32, some: slice) -> Iterator[np.ndarray]:
    """Yield the keys of some images, then those with every choice of their least certain bits turned."""
    certainty = np.abs(codes.values[some, _EVEN[bits]])
    weakest = np.argpartition(certainty, _TURNED, axis=1)[:, :_TURNED]
    turns = np.uint32(1) << bits[weakest]
    keys = codes.signs[some] & mask
    for choice in range(2**_TURNED):
        chosen = [turn for turn in range(_TURNED) if choice >> turn & 1]
        yield keys ^ np.bitwise_or.reduce(turns[:, chosen], axis=1)


def _matches(asked: np.ndarray, keys: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the entries of equal key: numbers of the question and of the entry, at most `_MOST_MATCHES` a question."""
    first = np.searchsorted(keys, asked, side="left")
    counts = np.minimum(np.searchsorted(keys, asked, side="right") - first, _MOST_MATCHES)
    ends = np.cumsum(counts)
    places = np.repeat(first - ends + counts, counts) + np.arange(counts.sum())
    return np.repeat(np.arange(len(asked)), counts), order[places]


def _near_pairs(codes: _Codes, entries: _Codes, whole: np.ndarray, within: np.ndarray, window: int) -> _Pairs:
    """Keep the pairs that agree in almost all bits and in their coefficients, mirrored or not."""
    apart = np.bitwise_count(codes.signs[whole] ^ entries.signs[within])
    kept = (apart <= _MOST_BITS_APART) & (whole != within)
    whole, within = whole[kept], within[kept]
    even, odd = np.empty(len(whole), np.float32), np.empty(len(whole), np.float32)
    for start in range(0, len(whole), _COMPARED):
        some = slice(start, start + _COMPARED)
        products = codes.values[whole[some]] * entries.values[within[some]]
        even[some] = products[:, _EVEN].sum(axis=1)
        odd[some] = products[:, _ODD].sum(axis=1)
    # A mirrored image has the odd coefficients with the other sign.
    near = even + np.abs(odd)
    return _Pairs(whole, within, np.full(len(whole), window), odd < 0, near).part(near >= _NEAR)


def _measure_likeness(thumbs: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """Lay each image on the part of the other that it may be, and measure how well their details agree: (M,)."""
    whole = thumbs[pairs.whole].astype(np.float32)
    whole[pairs.mirrored] = whole[pairs.mirrored, :, ::-1]
    within = thumbs[pairs.within].astype(np.float32)
    target = _cut(whole, np.tile(_WHOLE, (len(whole), 1)))
    windows = np.array(_WINDOWS)[pairs.window]
    for blur in _BLURS:
        wanted = _levelled(target, blur)
        for _ in range(_STEPS):
            windows = _improve(windows, within, wanted, blur)
    return _agreement(target, _cut(within, windows))


def _cut(thumbs: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Cut a window (M, 4) out of each thumbnail (M, S, S), averaged over the cells of a grid: (M, G, G)."""
    across, down = _cells(windows[:, 0], windows[:, 1]), _cells(windows[:, 2], windows[:, 3])
    return cast("np.ndarray", down @ thumbs @ across.transpose(0, 2, 1))


def _cells(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Weigh the pixels of a side in each cell of a window, (M, G, S); the outermost continue beyond the edges."""
    size = (high - low)[:, None] / _GRID
    ends = low[:, None] + size * np.arange(_GRID + 1)
    covered = np.clip(ends[:, :, None] - np.arange(SIDE) / SIDE, 0, 1 / SIDE)
    weights = np.diff(covered, axis=1)
    weights[:, :, 0] += np.diff(np.minimum(ends, 0), axis=1)
    weights[:, :, -1] += np.diff(np.maximum(ends, 1), axis=1)
    return cast("np.ndarray", (weights / size[:, :, None]).astype(np.float32))


def _improve(windows: np.ndarray, within: np.ndarray, wanted: np.ndarray, blur: float) -> np.ndarray:
    """Move the edges of each window a step towards the wanted content."""
    content = _levelled(_cut(within, windows), blur)
    down, across = np.gradient(content, axis=(1, 2))
    across *= _GRID / (windows[:, 1] - windows[:, 0])[:, None, None]
    down *= _GRID / (windows[:, 3] - windows[:, 2])[:, None, None]
    place = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
    slopes = np.stack(
        [across * (1 - place), across * place, down * (1 - place)[:, None], down * place[:, None]], axis=1
    ).reshape(-1, 4, _GRID**2)
    missing = (wanted - content).reshape(-1, _GRID**2, 1)
    # Writing upon an image is far off and must not pull: Cauchy's weights.
    trust = 1 / (1 + (missing / 0.5) ** 2).transpose(0, 2, 1)
    normal = (slopes * trust) @ slopes.transpose(0, 2, 1)
    damping = 0.01 * np.trace(normal, axis1=1, axis2=2) / 4 + 1e-6
    normal += damping[:, None, None] * np.eye(4)
    step = np.linalg.solve(normal, (slopes * trust) @ missing)[:, :, 0]
    moved = windows + np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
    low = np.clip(moved[:, ::2], -_ROOM, 1 - _SMALLEST)
    high = np.clip(moved[:, 1::2], low + _SMALLEST, 1 + _ROOM)
    return np.stack([low, high], axis=2).reshape(-1, 4)


def _levelled(cells: np.ndarray, blur: float) -> np.ndarray:
    """Blur, and bring the surroundings of each cell to mean 0 and deviation 1: light and contrast may differ."""
    smooth = ndimage.gaussian_filter(cells, (0, blur, blur), truncate=3)
    centred = smooth - _around(smooth, 11)
    return cast("np.ndarray", centred / np.sqrt(np.maximum(_around(centred * centred, 11), 0) + 1))


def _around(cells: np.ndarray, side: int) -> np.ndarray:
    """Average over a square around each cell of a grid."""
    return cast("np.ndarray", ndimage.uniform_filter(cells, (0, side, side), mode="nearest"))


def _agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlate the details of two grids around each cell, and average over detailed cells: (M,).

    A caption below or above may be skipped. It is 0 where less than a share of the cells has any details.
    """
    one, other = _details(one), _details(other)
    # Running sums may round a flat place to a little below 0.
    energy = [np.maximum(_around(details * details, 7), 0) for details in (one, other)]
    correlation = _around(one * other, 7) / np.sqrt((energy[0] + 1e-4) * (energy[1] + 1e-4))
    detailed = np.maximum(*energy) > _DETAIL**2
    agreeing = np.where(detailed, correlation, 0).sum(axis=2)
    counts = detailed.sum(axis=2)
    means = []
    for rows in _ROWS:
        number = counts[:, rows].sum(axis=1)
        mean = agreeing[:, rows].sum(axis=1) / np.maximum(number, 1)
        means.append(np.where(number >= _LEAST_DETAILED * _GRID * counts[:, rows].shape[1], mean, 0))
    return cast("np.ndarray", np.max(means, axis=0))


def _details(cells: np.ndarray) -> np.ndarray:
    """Subtract a blurred grid from each. Slopes continue beyond the edges, so that a sky's is no detail there."""
    reach = 6
    room = ((0, 0), (reach, reach), (reach, reach))
    wide = np.pad(cells, room, mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter(wide, (0, 2, 2), truncate=3)
    return cast("np.ndarray", cells - smooth[:, reach:-reach, reach:-reach])


def group(links: Links) -> list[list[int]]:
    """Gather linked images into groups, without long chains that have unlike ends.

    The most alike are joined first, and two groups join only if at least half of the pairs between them are linked. A
    link that joins no groups is a group of its two images, so that every link is in one.
    """
    group_of: dict[int, list[int]] = {}
    linked = set(zip(links.first.tolist(), links.second.tolist(), strict=True))
    left = []
    for place in np.argsort(-links.likeness, kind="stable"):
        one, other = int(links.first[place]), int(links.second[place])
        ours, theirs = group_of.setdefault(one, [one]), group_of.setdefault(other, [other])
        if ours is theirs:
            continue
        pairs = sum((min(a, b), max(a, b)) in linked for a in ours for b in theirs)
        if 2 * pairs < len(ours) * len(theirs):
            left.append([one, other])
            continue
        ours += theirs
        group_of.update(dict.fromkeys(theirs, ours))
    whole = {id(members): sorted(members) for members in group_of.values() if len(members) > 1}
    # What could not join at its turn may have come together later.
    apart = [pair for pair in left if group_of[pair[0]] is not group_of[pair[1]]]
    return sorted([*whole.values(), *apart])
