"""GradCAM and LayerCAM of a classifier in torch, by torchcam, on the last block of whatever encoder it has."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from uniemox.config.explain import CamMethod

_ELSE: Final = "use `method` occlusion"


class _Layer(NamedTuple):
    """What is hooked."""

    name: str
    prefix: int | None = None  # Tokens before the patches; None for channels of an image (B, D, h, w)
    grid: tuple[int, int] | None = None  # Rows and columns of patches; None for a square


def activation_maps(
    model: nn.Module, views: Sequence[Tensor], place: int, method: CamMethod
) -> npt.NDArray[np.float64]:
    """Compute a map (V, h, w), at least 0, for each view (1, 3, S, S) of an image, of what speaks for an output.

    `gradcam` weighs the channels of the last block by their mean gradients (Selvaraju et al. 2017), `layercam` each
    activation by its own where that is positive (Jiang et al. 2021). Of a transformer that block's first norm is read,
    from which class tokens too get what they know (as torchcam's `reshape_transform` needs it).

    Raises:
        ConfigError: torchcam is not installed, or the model has no layer with places that it can hook.
    """
    torchcam = _import_torchcam()
    layer = _find_layer(model, views)
    extractor = {"gradcam": torchcam.GradCAM, "layercam": torchcam.LayerCAM}[method]

    def reshape(tokens: Tensor) -> Tensor:
        if layer.prefix is None:
            return tokens
        patches = tokens[:, layer.prefix :].transpose(1, 2)
        return patches.unflatten(2, layer.grid or (isqrt(patches.shape[2]),) * 2)

    given = [view.detach().clone().requires_grad_(True) for view in views]
    with torch.enable_grad(), extractor(model, layer.name, reshape_transform=reshape) as cam:
        logits: Tensor = model(*given)
        maps: Tensor = cam(place, logits, normalized=False)[0]
    found: npt.NDArray[np.float64] = maps.detach().clamp(min=0).double().cpu().numpy()
    return found


def _import_torchcam() -> ModuleType | Any:
    try:
        from torchcam import methods
    except ImportError as error:
        what = f"maps by gradcam and layercam need torchcam ({error})"
        raise ConfigError(f"{what}: pip install 'uniemox[explain]', or {_ELSE}") from error
    return methods


def _find_layer(model: nn.Module, views: Sequence[Tensor]) -> _Layer:
    """Find the last block: of a transformer of timm's, or of another by its attention, or else the last channels."""
    names = {module: name for name, module in model.named_modules()}
    for module in names:
        if isinstance(module, VisionTransformer):
            grid = module.patch_embed.grid_size
            return _Layer(names[module.blocks[-1].norm1], module.num_prefix_tokens, (grid[0], grid[1]))
    shapes = _shapes(model, views)
    attentions = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    if attentions:  # such as open_clip's own towers
        block = model.get_submodule(attentions[-1].rpartition(".")[0])
        norms = [names[part] for part in block.children() if isinstance(part, nn.LayerNorm)]
        tokens = shapes.get(norms[0]) if norms else None
        if tokens is not None and len(tokens) == 3 and isqrt(tokens[1] - 1) ** 2 == tokens[1] - 1:
            return _Layer(norms[0], 1)
    places = [name for name, shape in shapes.items() if len(shape) == 4 and min(shape[2:]) > 1]
    if not places or attentions:
        raise ConfigError(f"no layer of {type(model).__name__} has places that torchcam can hook: {_ELSE}")
    return _Layer(places[-1])


def _shapes(model: nn.Module, views: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """Run the model; list the shapes of what its parts give, in the order in which they are done."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = tuple(output.shape)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.inference_mode():
            model(*views)
    finally:
        for handle in handles:
            handle.remove()
    return found
