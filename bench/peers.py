"""The training steps of lightly and TorchGeo that ours are measured against: their own modules, put together as their examples do."""

from __future__ import annotations

from collections.abc import Callable

import kornia.augmentation as K
import timm
import torch
from lightly.loss import DINOLoss
from lightly.models import utils
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.modules.ijepa_timm import IJEPAPredictorTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.models.utils import deactivate_requires_grad, update_momentum
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchgeo.trainers.byol import BYOL
from torchgeo.trainers.byol import normalized_mse as byol_distance

from eo_ssl.models import Vit
from eo_ssl.objectives import Dino, IJepa, Mae
from eo_ssl.objectives.block_masks import draw_blocks


def make_vit(vit: Vit, *, bands: int, size_px: int, **options: object) -> VisionTransformer:
    """timm's vision transformer of the same sizes."""
    made = timm.create_model(
        vit.name, img_size=size_px, patch_size=vit.patch_size, in_chans=bands, num_classes=0, **options
    )
    assert isinstance(made, VisionTransformer)
    return made


class LightlyMae(nn.Module):
    """Same encoder, decoder, mask ratio and target as ours, of lightly's modules."""

    def __init__(self, vit: Vit, method: Mae, *, bands: int, size_px: int) -> None:
        super().__init__()
        self.method, self.patch_px = method, vit.patch_size
        network = make_vit(vit, bands=bands, size_px=size_px)
        self.backbone = MaskedVisionTransformerTIMM(vit=network)
        self.length = self.backbone.sequence_length
        self.embed = nn.Linear(network.embed_dim, method.decoder_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=network.patch_embed.num_patches,
            embed_dim=method.decoder_dim,
            depth=method.decoder_depth,
            num_heads=method.decoder_heads,
        )
        self.head = nn.Linear(method.decoder_dim, bands * vit.patch_size**2)

    def forward(self, image: Tensor) -> Tensor:
        shape = (len(image), self.length)
        keep, mask = utils.random_token_mask(shape, mask_ratio=self.method.mask_ratio, device=image.device)
        encoded = self.backbone.encode(images=image, idx_keep=keep)
        tokens = utils.repeat_token(self.decoder.mask_token, shape)
        tokens = utils.set_at_index(tokens, keep, self.embed(encoded).type_as(tokens))
        decoded = self.decoder.decode(self.decoder.add_pos_embed(tokens))
        predicted = self.head(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(image, self.patch_px), mask - 1)
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target, dim=-1))


class LightlyIJepa(nn.Module):
    """Same encoder (but for the class token), predictor and blocks as ours; two forward passes as in lightly's example."""

    def __init__(self, vit: Vit, method: IJepa, *, bands: int, size_px: int) -> None:
        super().__init__()
        self.method, side = method, size_px // vit.patch_size
        self.grid = (side, side)
        options = {"class_token": False, "global_pool": "avg"}
        self.encoder = MaskedVisionTransformerTIMM(vit=make_vit(vit, bands=bands, size_px=size_px, **options))
        self.teacher = MaskedVisionTransformerTIMM(vit=make_vit(vit, bands=bands, size_px=size_px, **options))
        deactivate_requires_grad(self.teacher)
        self.predictor = IJEPAPredictorTIMM(
            num_patches=side**2,
            depth=method.predictor_depth,
            mlp_dim=self.encoder.vit.embed_dim,
            predictor_embed_dim=method.predictor_dim,
            num_heads=method.predictor_heads,
        )

    def forward(self, image: Tensor, rng: torch.Generator) -> Tensor:
        context, targets = draw_blocks(self.grid, len(image), config=self.method.masks, rng=rng)
        blocks = list(targets.unbind(dim=1))  # n of [B, T]
        with torch.no_grad():
            wanted = self.teacher.encode(image)
            wanted = nn.functional.layer_norm(wanted, wanted.shape[-1:])
            wanted = utils.apply_masks(wanted, blocks)
        predicted = self.predictor(self.encoder.encode(image, idx_keep=context), context, blocks)
        return nn.functional.smooth_l1_loss(predicted, wanted)

    def after_step(self) -> None:
        update_momentum(self.encoder, self.teacher, self.method.momentum)


class LightlyDino(nn.Module):
    """Same network and widths as ours; every crop passes by itself, as in lightly's example."""

    def __init__(self, vit: Vit, method: Dino, *, bands: int, size_px: int) -> None:
        super().__init__()
        self.method = method
        widths = (method.hidden_dim, method.bottleneck_dim, method.prototypes)
        self.student, self.teacher = (
            make_vit(vit, bands=bands, size_px=size_px, dynamic_img_size=True) for _ in range(2)
        )
        self.head, self.teacher_head = (DINOProjectionHead(self.student.embed_dim, *widths) for _ in range(2))
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.agree = DINOLoss(method.prototypes, student_temp=method.student_temperature)

    def forward(self, crops: list[Tensor]) -> Tensor:
        update_momentum(self.student, self.teacher, m=self.method.momentum)
        update_momentum(self.head, self.teacher_head, m=self.method.momentum)
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher(crop)) for crop in crops[:2]]
        student = [self.head(self.student(crop)) for crop in crops]
        loss: Tensor = self.agree(teacher, student, epoch=1)
        return loss


class TorchGeoByol(nn.Module):
    """TorchGeo's `BYOL` module and the training step of its task, at the size of our tiles; the task itself fixes 224 px."""

    def __init__(self, name: str, *, bands: int, size_px: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.byol = BYOL(
            timm.create_model(name, in_chans=bands, num_classes=0),
            image_size=(size_px, size_px),
            hidden_layer=-1,  # the pooled features: the task's -2 is layer4 of a ResNet before pooling
            in_channels=bands,
            projection_size=output_dim,
            hidden_size=hidden_dim,
            augment_fn=make_augmentation(size_px, gain=0.2),
        )

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.byol.augment(image), self.byol.augment(image)
        predictions = self.byol(first), self.byol(second)
        with torch.no_grad():
            targets = self.byol.target(first), self.byol.target(second)
        return torch.mean(byol_distance(predictions[0], targets[1]) + byol_distance(predictions[1], targets[0]))


def make_augmentation(size_px: int, *, gain: float) -> nn.Module:
    """Kornia's counterpart of our views, in place of TorchGeo's own table: crops, flips and a gain, no blur, no grey images."""
    return K.AugmentationSequential(
        K.RandomResizedCrop(size=(size_px, size_px), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomVerticalFlip(),
        K.RandomBrightness(brightness=(1 - gain, 1 + gain), p=1.0),
        data_keys=["input"],
    )


def make_stepper(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One optimizer step on `loss`."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step
