"""The 3D ResNet of MedicalNet (Chen et al., Med3D, 2019), as a feature extractor.

Parameter names are those of the released files. Layers 3 and 4 keep their resolution and dilate by 2 and 4
instead, which is why other 3D ResNets (other strides, hence other features) give another FID.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each of the four layers, by depth; 50 is made of bottlenecks."""

WIDTHS, STRIDES, DILATIONS = (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)

ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Conv3d(nn.Conv3d):
    """A convolution that goes to oneDNN directly where it can.

    For one small volume torch would choose a much slower kernel; at 64³ this halves the time, at 128³ it saves a third.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cpu and ONEDNN) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


class PadShortcut(nn.Module):
    """Shortcut A: subsample, and fill the new channels with zeros; it has no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.extra))


def shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module | None:
    """How the input reaches the block's sum where shapes change: A pads, B convolves."""
    if stride == 1 and inputs == outputs:
        return None
    if kind == "A":
        return PadShortcut(outputs - inputs, stride)
    return nn.Sequential(Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions (depths 10, 18, 34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, kind: str) -> None:
        super().__init__()
        self.conv1 = Conv3d(inputs, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = Conv3d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.downsample = shortcut(inputs, width, stride, kind)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(h)) + residual, inplace=True)


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3, 1×1×1 convolutions; the last widens fourfold (depth 50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, kind: str) -> None:
        super().__init__()
        self.conv1 = Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = Conv3d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = Conv3d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width * self.expansion)
        self.downsample = shortcut(inputs, width * self.expansion, stride, kind)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        return F.relu(self.bn3(self.conv3(h)) + residual, inplace=True)


class ResNet(nn.Module):
    """Volumes [B, 1, D, H, W] in [0, 1] to features [B, 512 or 2048], by global average pooling.

    Args:
        depth: 10, 18, 34 or 50.
        shortcut_kind: "A" or "B"; the released files of depth 10 and 50 have B, those of 18 and 34 have A.
    """

    def __init__(self, depth: int = 50, shortcut_kind: str = "B") -> None:
        super().__init__()
        block = Bottleneck if depth >= 50 else BasicBlock
        self.conv1 = Conv3d(1, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        channels = 64
        for index, count in enumerate(BLOCKS[depth]):
            width, layer = WIDTHS[index], nn.Sequential()
            for i in range(count):
                stride = STRIDES[index] if i == 0 else 1
                layer.append(block(channels, width, stride, DILATIONS[index], shortcut_kind))
                channels = width * block.expansion
            self.add_module(f"layer{index + 1}", layer)
        self.width = channels

    def forward(self, volume: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(volume)), inplace=True)
        h = F.max_pool3d(h, 3, stride=2, padding=1)
        for index in range(len(WIDTHS)):
            h = self.get_submodule(f"layer{index + 1}")(h)
        return h.mean(dim=(2, 3, 4))


def folded(network: nn.Module) -> nn.Module:
    """The network in evaluation mode with every normalisation folded into the convolution before it, in place.

    Fewer passes over memory; features agree to float32 rounding.
    """
    network.eval()
    for child in network.children():
        folded(child)
    names = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")]  # the last: a shortcut's pair
    for conv_name, norm_name in names:
        conv, norm = getattr(network, conv_name, None), getattr(network, norm_name, None)
        if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
            setattr(network, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(network, norm_name, nn.Identity())
    return network


def random_resnet(seed: int, depth: int = 50) -> ResNet:
    """A network with seeded random weights: good for trying things out, its scores compare with nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet(depth)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
