"""A network of your own: `python -m clsweep +benchmark=split_mnist network._target_=my_network.Net network.width=64`.

Any torch.nn.Module from images [B, C, H, W] to [B, n_outputs] works. It gets `input_shape` (C, H, W) and `n_outputs` if
its signature has them; other arguments are keys, as in `network.width`. Type the command in this file's folder.
"""

from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, input_shape: tuple[int, int, int], n_outputs: int, width: int = 32) -> None:
        super().__init__()
        channels, height, _ = input_shape
        self.embedding = nn.Linear(channels * height, width)  # each column of the image is a token
        self.layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=2 * width, dropout=0, batch_first=True)
        self.out = nn.Linear(width, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embedding(images.flatten(1, 2).transpose(1, 2))
        return self.out(self.layer(tokens).mean(1))
