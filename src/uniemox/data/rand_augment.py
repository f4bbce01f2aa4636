"""timm's RandAugment, kept within what its libraries accept.

timm draws a magnitude and makes an argument of it for each operation. Every operation that RandAugment can choose takes
any magnitude from 0 to 999, except posterize: it is asked to keep 0 bits (magnitudes below 2.5, or with `inc` from 10)
or fewer (with `inc` and `mmax` above 10). Pillow 11 and 12 made a black image of that, Pillow 13 raises a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from uniemox.data.failures import naming

if TYPE_CHECKING:
    from timm.data.auto_augment import AugmentOp, RandAugment


def guard(rand_augment: RandAugment, words: str) -> None:
    """Let posterize keep no bit, and let every operation name itself where it fails.

    What is drawn, and what any operation makes of an argument that its library accepts, stays timm's.

    Args:
        rand_augment: As timm made it; changed in place.
        words: The setting that it was made from, for errors.
    """
    for op in rand_augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = partial(_posterize, op.aug_fn)
    rand_augment.ops = [Operation(op, f"the augmentation ({words}, {op.name})") for op in rand_augment.ops]


class Operation:
    """One of timm's operations, with its name for errors."""

    def __init__(self, op: AugmentOp, name: str) -> None:
        self.op, self.name = op, name

    def __call__(self, image: Image.Image) -> Image.Image:
        """Apply it to an RGB image by chance; a `DataError` names the operation that fails."""
        with naming(self.name, advice="`augment.rand_augment` null trains without RandAugment"):
            result: Image.Image = self.op(image)
        return result


def _posterize(
    posterize: Callable[..., Image.Image], image: Image.Image, bits_to_keep: int, **others: Any
) -> Image.Image:
    """Keep the highest bits of each channel, or none, which leaves black."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **others)
