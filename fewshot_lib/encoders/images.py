"""Images -> features: Conv4, on which few-shot papers compare (Vinyals et al. 2016, arXiv:1606.04080)."""

import itertools

import torch
from torch import Tensor, nn

from fewshot_lib.core import one_of


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pooling: (n, c, 28, 28) -> (n, width).

    downsample: "pool", or "stride" for convolutions of stride 2 without pooling and a mean over what is left
    of the image, as MAML has it for Omniglot (Finn et al. 2017, section 5.2): a quarter of the arithmetic.

    Images may be uint8 (0..255) or float (0..1).
    """

    def __init__(self, in_channels: int = 1, width: int = 64, downsample: str = "pool") -> None:
        super().__init__()
        one_of("downsample", downsample, ("pool", "stride"))
        self.downsample, self.in_channels = downsample, in_channels
        channels = [in_channels, width, width, width, width]
        self.blocks = nn.Sequential(*(self._block(*pair) for pair in itertools.pairwise(channels)))
        self.n_features = width
        # the same numbers in another order: half the time per step on a CPU
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _block(self, c_in: int, c_out: int) -> nn.Sequential:
        strided = self.downsample == "stride"
        convolution = nn.Conv2d(c_in, c_out, 3, stride=2 if strided else 1, padding=1)
        pooling = () if strided else (nn.MaxPool2d(2),)
        return nn.Sequential(convolution, nn.BatchNorm2d(c_out), nn.ReLU(), *pooling)

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
            found = f"of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise ValueError(f"`images` are {found}: give a tensor, uint8 (0..255) or float (0..1).")
        least = 16 if self.downsample == "pool" else 1
        if images.dim() != 4 or images.shape[1] != self.in_channels or min(images.shape[2:]) < least:
            needed = f"(n, {self.in_channels}, height, width), {least} pixels a side or more"
            raise ValueError(f"`images` have shape {tuple(images.shape)}: give {needed}.")

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        features = self.blocks(images)
        return features.mean((2, 3)) if self.downsample == "stride" else features.flatten(1)
