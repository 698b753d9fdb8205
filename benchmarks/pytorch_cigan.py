"""ciGAN's training step in plain PyTorch, written directly from the paper (section 2).

It is the baseline for `benchmarks/training.py`, with the same layers, the same losses on the same
patches and the same optimizer (Adam), run eagerly in NCHW. It contains everything that the paper
describes, and is not tuned.
"""

import math

import torch
from torch import nn
from torch.nn import functional

GENERATOR_KERNELS = (128, 128, 64, 64, 32, 32, 32)
DISCRIMINATOR_KERNELS = (32, 64, 128, 256, 512)
VGG_BLOCKS = ((64, 64), (128, 128), (256, 256, 256, 256))
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
BOUNDARY_SIGMA_PX = 10


class Generator(nn.Module):
    """Context, mask and class maps [N, 4, p, p] -> grey patch [N, 1, p, p], refined from 4 px."""

    def __init__(self, patch_size: int):
        super().__init__()
        blocks, channels = [], 0
        for kernels in GENERATOR_KERNELS[: int(math.log2(patch_size)) - 1]:
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels + 4, kernels, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(kernels, kernels, 3, padding=1),
                    nn.ReLU(),
                )
            )
            channels = kernels
        self.blocks = nn.ModuleList(blocks)
        self.to_grey = nn.Conv2d(channels, 1, 1)

    def forward(self, stack):
        """Refines the patch from scale to scale."""
        features = None
        for level, block in enumerate(self.blocks):
            at_scale = functional.interpolate(stack, size=4 * 2**level, mode="nearest")
            if features is not None:
                features = functional.interpolate(features, scale_factor=2, mode="nearest")
                at_scale = torch.cat([features, at_scale], dim=1)
            features = block(at_scale)
        return torch.sigmoid(self.to_grey(features))


class Discriminator(nn.Module):
    """Image and class maps [N, 3, p, p] -> logit [N, 1]."""

    def __init__(self, patch_size: int):
        super().__init__()
        layers, channels = [], 3
        for kernels in DISCRIMINATOR_KERNELS:
            convolution = nn.Conv2d(channels, kernels, 3, padding=1)
            layers += [convolution, nn.LeakyReLU(0.2), nn.MaxPool2d(2)]
            channels = kernels
        side = patch_size // 2 ** len(DISCRIMINATOR_KERNELS)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side**2, 1))

    def forward(self, image, class_maps):
        """Scores patches of a class."""
        return self.layers(torch.cat([image, class_maps], dim=1))


class VggFeatures(nn.Module):
    """Grey patches [N, 1, p, p] in [0, 1] -> VGG-19's input and pools 1 to 3; frozen."""

    def __init__(self):
        super().__init__()
        blocks, channels = [], 3
        for block in VGG_BLOCKS:
            layers = []
            for kernels in block:
                layers += [nn.Conv2d(channels, kernels, 3, padding=1), nn.ReLU()]
                channels = kernels
            blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        mean = torch.tensor(IMAGENET_MEAN_BGR).reshape(1, 3, 1, 1)
        self.register_buffer("mean", mean)
        self.requires_grad_(False)

    def forward(self, grey):
        """Returns the four maps."""
        maps = [255 * grey.expand(-1, 3, -1, -1) - self.mean]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps


def boundary_map(mask):
    """Returns the mask's inner rim, blurred by a Gaussian."""
    rim = mask * functional.max_pool2d(1 - mask, 3, stride=1, padding=1)
    radius = 4 * BOUNDARY_SIGMA_PX
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / BOUNDARY_SIGMA_PX) ** 2)
    kernel = kernel / kernel.sum()
    blurred = functional.conv2d(rim, kernel.reshape(1, 1, -1, 1), padding=(radius, 0))
    return functional.conv2d(blurred, kernel.reshape(1, 1, 1, -1), padding=(0, radius))


class CiGAN:
    """The networks, their optimizers, and one step of each.

    Args:
        patch_size: side of a patch in pixels, a power of two up to 256.
        learning_rate: Adam's learning rate.
    """

    def __init__(self, patch_size: int, learning_rate: float = 1e-4):
        self.generator, self.vgg = Generator(patch_size), VggFeatures()
        self.discriminator = Discriminator(patch_size)
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(network.parameters(), learning_rate)
            for network in (self.generator, self.discriminator)
        )

    def infill(self, image, mask, class_maps):
        """Returns patches with their masks infilled."""
        context = torch.where(mask > 0.5, torch.rand_like(image), image)
        generated = self.generator(torch.cat([context, mask, class_maps], dim=1))
        return torch.where(mask > 0.5, generated, image)

    def feature_loss(self, image, infilled):
        """Returns the sum of the maps' mean absolute differences."""
        with torch.no_grad():
            real_maps = self.vgg(image)
        maps = zip(real_maps, self.vgg(infilled), strict=True)
        return sum((real - fake).abs().mean() for real, fake in maps)

    def generator_step(self, image, mask, class_maps):
        """Trains the generator on all three terms."""
        self.discriminator.requires_grad_(False)
        infilled = self.infill(image, mask, class_maps)
        boundary = (boundary_map(mask) * (image - infilled).abs()).mean()
        adversarial = functional.softplus(-self.discriminator(infilled, class_maps)).mean()
        loss = adversarial + 10 * self.feature_loss(image, infilled) + 10_000 * boundary
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.discriminator.requires_grad_(True)
        self.generator_optimizer.step()
        return loss.item()

    def discriminator_step(self, image, mask, class_maps):
        """Trains the discriminator."""
        with torch.no_grad():
            infilled = self.infill(image, mask, class_maps)
        real = self.discriminator(image, class_maps)
        fake = self.discriminator(infilled, class_maps)
        loss = 0.5 * (functional.softplus(-real) + functional.softplus(fake)).mean()
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        return loss.item()
