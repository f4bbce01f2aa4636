"""The kinds of learning: where model, loss and batch meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from uniemox.data.transforms import normalize
from uniemox.losses import (
    PretrainLosses,
    contrast_loss,
    reconstruction_loss,
    similarity_loss,
)
from uniemox.models.encoder import patchify
from uniemox.train.engine import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from timm.data import Mixup
    from torch import Tensor, nn

    from uniemox.config import LossConfig
    from uniemox.data.batch import LabelledBatch, PretrainBatch
    from uniemox.models.pretrain import PretrainOutput
    from uniemox.models.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """UniEmoX's objective. The teacher stands outside the module, so it is never wrapped, trained or saved."""

    weights: LossConfig
    mask_ratio: float
    patch_size: int
    teacher: Teacher | None
    """None where no term needs CLIP."""
    texts: Tensor | None
    """(T, E), CLIP's feature of each distinct description, on the device; None where L1 is off."""
    gather: Callable[[Tensor], Tensor]
    """Joins a tensor of all processes along its first dimension; texts are constants, so no gradient is lost."""

    def step(self, module: nn.Module, batch: PretrainBatch) -> Step:
        """Compute the weighted sum of the terms, and each of them."""
        scene = normalize(batch.scene)
        output: PretrainOutput = module(
            scene,
            normalize(batch.person),
            batch.scene_noise,
            batch.person_noise,
            self.mask_ratio,
        )
        losses = self.losses(output, scene, batch)
        scalars = {name: term.detach() for name, term in losses.computed().items()}
        return Step(losses.total(self.weights), scalars)

    def losses(self, output: PretrainOutput, scene: Tensor, batch: PretrainBatch) -> PretrainLosses:
        """Compute the terms whose weight is not 0.

        Args:
            output: Of the module.
            scene: (B, 3, S, S), normalised as the encoder saw it.
            batch: The pictures, for the teacher.
        """
        contrast = similarity = reconstruction = None
        if output.embedding is not None:
            assert self.teacher is not None
            image = self.teacher.encode_images(batch.scene.float() / 255)
            if self.weights.contrast:
                assert self.texts is not None
                texts = self.gather(self.texts[batch.text])
                contrast = contrast_loss(output.embedding, image, texts)
            if self.weights.similarity:
                similarity = similarity_loss(output.embedding, image)
        if output.prediction is not None:
            reconstruction = reconstruction_loss(
                output.prediction,
                patchify(scene, self.patch_size),
                output.hiding.hidden,
                normalized=self.weights.normalized_target,
            )
        return PretrainLosses(contrast, similarity, reconstruction)


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """Classification of one view or two, with soft targets where pictures are mixed, smoothed ones otherwise."""

    smoothing: float
    mixup: Mixup | None
    """timm's mixing of pictures, which smooths the targets itself."""

    def step(self, module: nn.Module, batch: LabelledBatch) -> Step:
        """Compute the cross-entropy."""
        if self.mixup is None:
            logits = module(*batch.views)
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.smoothing)
        else:
            # As channels of one picture, both views get the same partner, share and box (DECISIONS 57).
            pixels, targets = self.mixup(torch.cat(batch.views, dim=1), batch.labels)
            loss = F.cross_entropy(module(*pixels.split(3, dim=1)).float(), targets)
        return Step(loss, {})
