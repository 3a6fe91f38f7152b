"""Networks of the field: ResNet-18 for 32 x 32 images, ResNet-20/56, a fast one, and for digits a small one and a ViT."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, relu, scaled_dot_product_attention


class Subsample(nn.Module):
    """The parameter-free shortcut (option A): every second pixel, zero channels on both sides.

    References:
        He et al., 2016, Deep residual learning for image recognition, arXiv:1512.03385
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C + extra, H / 2, W / 2)."""
        half = self.extra // 2
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.extra - half))

    def grouped(self, models: int) -> nn.Module:
        """The same for the channels of several models side by side, see `unlearn.ops.stacked`."""
        return GroupedSubsample(self.extra, models)


class GroupedSubsample(nn.Module):
    """`Subsample` of the channels of several models, which lie side by side."""

    def __init__(self, extra: int, models: int) -> None:
        super().__init__()
        self.extra, self.models = extra, models

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, M C, H, W) to (B, M (C + extra), H / 2, W / 2)."""
        half, parts = self.extra // 2, x[:, :, ::2, ::2].unflatten(1, (self.models, -1))
        return pad(parts, (0, 0, 0, 0, half, self.extra - half)).flatten(1, 2)


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, beside a shortcut.

    Args:
        cin: Channels in.
        cout: Channels out.
        stride: Of the first convolution.
        project: Whether a shortcut that changes shape is a 1 x 1 convolution (option B) or `Subsample`.
    """

    def __init__(self, cin: int, cout: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(cout)) if project else Subsample(cout - cin)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H / stride, W / stride)."""
        h = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images: stem, stages of blocks, global mean, linear head.

    Args:
        channels: Channels of the input.
        classes: Number of outputs.
        widths: Channels of each stage; every stage but the first halves the image.
        depth: Blocks in each stage.
        project: Shortcuts that change shape, see `Block`.
    """

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...], depth: int, project: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, cin = [], widths[0]
        for i, cout in enumerate(widths):
            blocks = [
                Block(cin if j == 0 else cout, cout, 2 if i and j == 0 else 1, project) for j in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            cin = cout
        for i, stage in enumerate(stages, 1):
            self.add_module(f"layer{i}", stage)
        self.stages = len(stages)
        self.linear = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W)."""
        h = relu(self.bn1(self.conv1(x)))
        for i in range(1, self.stages + 1):
            h = self.get_submodule(f"layer{i}")(h)
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


class Residual(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU, added to what enters them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res1, self.res2 = _unit(width, width), _unit(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        h: Tensor = x + self.res2(self.res1(x))
        return h


class ResNet9(nn.Module):
    """A wide, shallow residual network that trains in few epochs: eight convolutions and a head.

    Features are divided by eight, so that logits start small. As Jordan does, and unlike Page, images are halved before
    batch norm and ReLU, which then see a quarter of the pixels.

    Args:
        channels: Channels of the input.
        classes: Number of outputs.

    References:
        Page, 2018, How to train your ResNet, code at davidcpage/cifar10-fast
        Jordan, 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU, arXiv:2404.00498
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.prep = _unit(channels, 64)
        self.layer1 = nn.Sequential(_unit(64, 128, halve=True), Residual(128))
        self.layer2 = _unit(128, 256, halve=True)
        self.layer3 = nn.Sequential(_unit(256, 512, halve=True), Residual(512))
        self.linear = nn.Linear(512, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W) of at least 8 x 8 pixels."""
        h = self.layer3(self.layer2(self.layer1(self.prep(x))))
        logits: Tensor = self.linear(h.amax((2, 3)) / 8)
        return logits


def _unit(cin: int, cout: int, halve: bool = False) -> nn.Sequential:
    pool = [nn.MaxPool2d(2)] if halve else []
    return nn.Sequential(nn.Conv2d(cin, cout, 3, 1, 1, bias=False), *pool, nn.BatchNorm2d(cout), nn.ReLU())


class Attention(nn.Module):
    """Self-attention of several heads over tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, L, D) to the same shape."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Transformer(nn.Module):
    """A block of a transformer, norms first: x + attention, then x + fc2(gelu(fc1(x)))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, L, D) to the same shape."""
        x = x + self.attention(self.norm1(x))
        h: Tensor = x + self.fc2(gelu(self.fc1(self.norm2(x))))
        return h


class VisionTransformer(nn.Module):
    """A vision transformer for small images: convolution, patches, blocks, mean over the tokens, linear head.

    Without the convolution it learns a thousand images by heart and understands few others.

    Args:
        channels: Channels of the input.
        classes: Number of outputs.
        side: Pixels of a side of the images.
        patch: Pixels of a side of a patch.
        width: Features D of a token.
        depth: Number of blocks.

    References:
        Dosovitskiy et al., 2021, An image is worth 16x16 words: transformers for image recognition at scale,
        arXiv:2010.11929
        Xiao et al., 2021, Early convolutions help transformers see better, arXiv:2106.14881
    """

    def __init__(
        self, channels: int, classes: int, side: int = 8, patch: int = 2, width: int = 48, depth: int = 3
    ) -> None:
        super().__init__()
        stem = [nn.Conv2d(channels, 32, 3, padding=1), nn.GELU()]
        self.patches = nn.Sequential(*stem, nn.Conv2d(32, width, patch, patch))
        self.positions = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList([Transformer(width, 4) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, side, side)."""
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h).mean(1))
        return logits


def resnet18(channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet-18 with the 3 x 3 stem that is usual for 32 x 32 images."""
    return ResNet(channels, classes, (64, 128, 256, 512), 2)


def resnet20(channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet-20 for CIFAR with parameter-free shortcuts."""
    return ResNet(channels, classes, (16, 32, 64), 3, project=False)


def resnet56(channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet-56 for CIFAR with parameter-free shortcuts."""
    return ResNet(channels, classes, (16, 32, 64), 9, project=False)


def resnet8(channels: int = 1, classes: int = 10) -> ResNet:
    """A small residual network for 8 x 8 to 28 x 28 images: three blocks, 0.2 million weights."""
    return ResNet(channels, classes, (24, 48, 96), 1)


def resnet9(channels: int = 3, classes: int = 10) -> ResNet9:
    """ResNet-9 of 6.6 million weights, for the fast recipe."""
    return ResNet9(channels, classes)


def vit(channels: int = 1, classes: int = 10) -> VisionTransformer:
    """A small vision transformer for 8 x 8 images: three blocks over sixteen tokens, 0.1 million weights."""
    return VisionTransformer(channels, classes)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet8": resnet8,
    "resnet9": resnet9,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "vit": vit,
}


def seeded(build: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """A network whose initial weights come from `rng`; the global generator stays as it was."""
    seed = int(torch.randint(0, 2**31 - 1, (1,), generator=rng, device=rng.device).item())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def mlp(inputs: int, outputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Fully connected layers with ReLU between them, for rows of numbers.

    Args:
        inputs: Columns of a row.
        outputs: Numbers that are predicted.
        widths: Units of each hidden layer.
    """
    sizes = (inputs, *widths)
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))
