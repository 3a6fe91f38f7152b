"""Convolution transpose: the kernels, the step sizes, and what it refuses."""

import pytest
import torch
from torch import nn

from unlearn.data import Resident, Split
from unlearn.errors import Mismatch
from unlearn.methods.convolution_transpose import ConvolutionTranspose, cosine, transpose_kernels
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier


def test_height_and_width_of_every_kernel_change_places():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1), nn.Linear(4, 2))
    before = [p.detach().clone() for p in net.parameters()]
    transpose_kernels(net)
    for o in range(3):
        for i in range(2):
            torch.testing.assert_close(net[0].weight[o, i], before[0][o, i].T, rtol=0, atol=0)
    for p, b in list(zip(net.parameters(), before, strict=True))[1:]:
        assert torch.equal(p, b), "biases, kernels of one pixel and other layers stay"


def test_a_symmetric_image_through_a_transposed_network_is_the_transposed_answer():
    """Transposing the kernels and the image transposes the feature maps: nothing else was touched."""
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.randn(1, 1, 8, 8)
    want = net(x).transpose(2, 3)
    transpose_kernels(net)
    torch.testing.assert_close(net(x.transpose(2, 3)), want)


def test_step_sizes_fall_along_a_cosine():
    net = nn.Linear(1, 1)
    opt = torch.optim.SGD(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4)
    for e in range(4):
        assert opt.param_groups[0]["lr"] == pytest.approx(cosine(e, 4))
        opt.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "works on two-dimensional convolutions, and Sequential has none"),
        (nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.Flatten(), nn.Linear(48, 2)), "those of 0 are 3 x 5"),
    ],
)  # fmt: skip
def test_networks_that_it_cannot_transpose_are_refused(net, said):
    whole = Resident(Arrays(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])))
    split = Split(whole.take(torch.arange(1)), whole.take(torch.arange(1, 4)), None, None, None)
    with pytest.raises(Mismatch, match=said):
        ConvolutionTranspose().unlearn(Classifier(net, 2), split, Run(0, torch.device("cpu")))


def test_it_transposes_and_then_trains_on_retain_as_plain_torch_does():
    """One batch in a pass, so that the order does not count; the forget set would raise if it were read."""
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(9, 1, 6, 6, generator=rng).double(), torch.arange(9) % 3

    def net():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ).double()

    made, twin = net(), net()
    retain = Resident(Arrays(x, y), lambda x, _rng: x)
    method = ConvolutionTranspose(lr=0.1, epochs=3, batch_size=64, momentum=0.9, weight_decay=0.01)
    method.unlearn(Classifier(made, 3), Split(None, retain, None, None, None), Run())
    with torch.no_grad():
        twin[0].weight.copy_(twin[0].weight.mT.clone())
    opt = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=3)
    twin.train()
    for _ in range(3):
        opt.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        opt.step()
        falls.step()
    for k, v in made.state_dict().items():
        torch.testing.assert_close(v, twin.state_dict()[k], rtol=1e-9, atol=1e-12)
