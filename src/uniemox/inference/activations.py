"""GradCAM and LayerCAM of a classifier in torch, by torchcam."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uniemox.config.explain import CamMethod

_ELSE: Final = "use `method` occlusion"


class _Layer(NamedTuple):
    """What is hooked."""

    name: str
    prefix: int | None = None  # Tokens before the square of patches; None for channels of places (B, D, h, w)


def activation_maps(
    model: nn.Module, views: Sequence[Tensor], place: int, method: CamMethod
) -> npt.NDArray[np.float64]:
    """Compute a map (V, h, w), at least 0, for each view (1, 3, S, S) of an image, of what speaks for an output.

    `gradcam` weighs the channels of a layer by their mean gradients (Selvaraju et al. 2017), `layercam` each activation
    by its own where that is positive (Jiang et al. 2021). The layer is the last of a convolutional network that has
    places, and the block in the middle of a transformer: in its last, each patch knows the whole image (DECISIONS 141).

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
        return patches.reshape(*patches.shape[:2], isqrt(patches.shape[2]), -1)

    given = [view.detach().clone().requires_grad_(True) for view in views]
    with torch.enable_grad(), extractor(model, layer.name, reshape_transform=reshape) as cam:
        logits: Tensor = model(*given)
        maps: Tensor = cam(place, logits, normalized=False)[0]
    found: npt.NDArray[np.float64] = maps.detach().clamp(min=0).double().cpu().numpy()
    return found


def _import_torchcam() -> Any:
    try:
        from torchcam import methods
    except ImportError as error:
        what = f"maps by gradcam and layercam need torchcam ({error})"
        raise ConfigError(f"{what}: pip install 'uniemox[explain]', or {_ELSE}") from error
    return methods


def _find_layer(model: nn.Module, views: Sequence[Tensor]) -> _Layer:
    """Find the block in the middle of a transformer, by its attentions, or else the last channels of places."""
    shapes = _shapes(model, views)
    modules = dict(model.named_modules())
    attentions = [name for name, part in modules.items() if isinstance(part, Attention | nn.MultiheadAttention)]
    if attentions:
        name = attentions[len(attentions) // 2].rpartition(".")[0]
        tokens = shapes.get(name, ())
        prefix = next((part.num_prefix_tokens for part in modules.values() if isinstance(part, VisionTransformer)), 1)
        if len(tokens) == 3 and isqrt(tokens[1] - prefix) ** 2 == tokens[1] - prefix > 1:
            return _Layer(name, prefix)
    else:
        places = [(name, shape[2:]) for name, shape in shapes.items() if len(shape) == 4 and max(shape[2:]) > 1]
        if places and len(set(places[-1][1])) == 1:  # else its channels come last
            return _Layer(places[-1][0])
    raise ConfigError(f"no layer of {type(model).__name__} has places that torchcam can hook: {_ELSE}")


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
