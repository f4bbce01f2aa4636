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

    from uniemox.config import LossConfig, Target
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
    """Classification of one view or two, with soft targets where pictures are mixed or labels smoothed.

    With one label for each picture the loss is the cross-entropy of a softmax; with several, the mean over classes of
    the binary cross-entropy of each.
    """

    target: Target
    smoothing: float
    """ε: a label's share ε is spread over all classes, or over yes and no (Szegedy et al. 2016, section 7)."""
    mixup: Mixup | None
    """timm's mixing of pictures, whose targets are places in the batch, unsmoothed."""

    def step(self, module: nn.Module, batch: LabelledBatch) -> Step:
        """Compute the loss."""
        views, shares = self._mix(batch)
        logits = module(*views).float()
        targets = shares @ self._targets(batch.labels, logits.shape[1])
        match self.target:
            case "single_label":
                loss = F.cross_entropy(logits, targets)
            case "multi_label":
                loss = F.binary_cross_entropy_with_logits(logits, targets)
        return Step(loss, {})

    def _mix(self, batch: LabelledBatch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Give the views, and (B, B) the share that each picture of the batch has in each of them."""
        count, device = len(batch.labels), batch.labels.device
        if self.mixup is None:
            return batch.views, torch.eye(count, device=device)
        # As channels of one picture, both views get the same partner, share and box (DECISIONS 57).
        places = torch.arange(count, device=device)
        pixels, shares = self.mixup(torch.cat(batch.views, dim=1), places)
        return pixels.split(3, dim=1), shares[:, :count]

    def _targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Give the smoothed targets (B, C) of pictures that are not mixed."""
        match self.target:
            case "single_label":
                chosen, spread = F.one_hot(labels, num_classes), num_classes
            case "multi_label":
                chosen, spread = labels, 2
        return chosen.float() * (1 - self.smoothing) + self.smoothing / spread
