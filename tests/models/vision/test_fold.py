"""Folding gives the same vectors with fewer layers, and is put back where it would not."""

import pytest
import torch
from torch import nn

from spark_embed.inference.decode import MAX_PIXELS
from spark_embed.inference.preflight.parity import measure_parity, prepare_sample
from spark_embed.models import EMBEDDED_MODEL, Recipe
from spark_embed.models.vision.fold import fold_batch_norms
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import change_weights, prepare_all, save_model
from support.vectors import cosines


def n_batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def train(weights: dict[str, torch.Tensor]) -> None:
    """Give the batch norms of a network with random weights statistics as training leaves them."""
    for name, tensor in weights.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.2)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)


@pytest.fixture(params=[EMBEDDED_MODEL, "resnet", "test_resnet"])
def recipe(request, tmp_path) -> Recipe:
    if request.param == EMBEDDED_MODEL:
        return Recipe(device="cpu", dtype="float32")
    save_model(request.param, tmp_path)
    change_weights(tmp_path, train)
    return Recipe(str(tmp_path), device="cpu", dtype="float32")


def test_folded_vectors_are_those_of_the_plain_network(recipe, photos):
    plain, folded = (ImageEmbedder(recipe, fold=fold) for fold in (False, True))
    assert plain.network.n_folded == 0
    assert folded.network.n_folded > 10
    left = n_batch_norms(folded.network._network)
    assert folded.network.n_folded + left == n_batch_norms(plain.network._network)
    assert left <= 1  # timm's deep stem has one that is not beside its convolution
    predictions = [model.predict(prepare_all(model, photos)) for model in (plain, folded)]
    vectors = [prediction.columns["embedding"] for prediction in predictions]
    assert cosines(*vectors).min() > 0.999999


def test_parity_compares_with_the_plain_network(photo_bytes):
    model = ImageEmbedder(Recipe(device="cpu", dtype="float32"))
    sample = list(prepare_sample(model, ((data, None) for data in photo_bytes), MAX_PIXELS))
    assert measure_parity(model, sample).min_cosine > 0.9999
    with torch.no_grad():  # as if it had been folded wrongly
        model.network._network.timm_model.conv_head.bias.add_(1)
    assert measure_parity(model, sample).min_cosine < 0.99


class Unordered(nn.Module):
    """Its batch norm is registered after a convolution that it does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels):
        return self.conv(self.norm(pixels)).mean((2, 3))


class Curious(Unordered):
    """It looks into its batch norm."""

    def forward(self, pixels):
        return self.norm(self.conv(pixels)).mean((2, 3)) * self.norm.eps


@pytest.mark.parametrize("kind", [Unordered, Curious])
def test_a_network_that_folding_would_change_stays_as_it_is(kind):
    torch.manual_seed(0)
    network, pixels = kind().eval(), torch.randn(1, 3, 8, 8)
    train(network.state_dict())
    expected = network(pixels)
    assert fold_batch_norms(network, lambda: network(pixels)) == 0
    assert torch.equal(network(pixels), expected)
