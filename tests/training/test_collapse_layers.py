"""Recording, measuring and training layer by layer."""

import pytest
import torch
from torch import nn

from paperworks.training import FeatureRecorder, LayerwiseTrainer, layer_metrics, nc_metrics

X = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
NETWORK = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)
)


def test_a_recorder_keeps_what_a_layer_puts_out_or_gets():
    NETWORK.eval()
    with FeatureRecorder(NETWORK, "0.0") as first, FeatureRecorder(NETWORK, NETWORK[3], inputs=True) as last:
        with pytest.raises(RuntimeError, match="no batch"):
            _ = first.features
        NETWORK(X[:5])
    torch.testing.assert_close(first.features, NETWORK[0][0](X[:5]).flatten(1).detach())
    torch.testing.assert_close(last.features, NETWORK[:3](X[:5]).detach())
    NETWORK(X[:9])
    assert len(first.features) == 5


def test_all_layers_are_measured_in_one_pass_before_what_follows_in_place():
    NETWORK.train()
    before = NETWORK[0][1].running_mean.clone()
    found = layer_metrics(NETWORK, zip(X.split(7), Y.split(7), strict=True), 3)
    assert NETWORK.training
    torch.testing.assert_close(NETWORK[0][1].running_mean, before)
    assert not any(module._forward_hooks for module in NETWORK.modules())
    NETWORK.eval()
    for depth, name in enumerate("0123", start=1):
        expected = nc_metrics(NETWORK[:depth](X).flatten(1).double(), Y)
        for measure in ("nc1", "nc1_trace", "nc2"):
            assert getattr(found[name], measure) == pytest.approx(getattr(expected, measure), rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_layers_are_trained_one_after_the_other_the_same_from_the_same_seed(loss):
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        blocks = [
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()),
            nn.Sequential(nn.Linear(16, 8), nn.ReLU()),
        ]
        trainer = LayerwiseTrainer(blocks, 3, loss=loss, epochs=3, batch_size=25)
        found.append(trainer.fit(X, Y, torch.Generator().manual_seed(1)))
        assert (trainer.network_[-1].bias is None) == (loss == "mse")
    assert found[0].metrics_ == found[1].metrics_
    assert len(found[0].metrics_) == 3
    assert found[0].metrics_[0].nc1_trace == pytest.approx(nc_metrics(X.flatten(1), Y).nc1_trace)
    features = nn.Sequential(*found[0].blocks)(X)
    assert found[0].metrics_[2].nc1_trace == pytest.approx(nc_metrics(features, Y).nc1_trace)
    assert found[0].network_(X).shape == (60, 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"layer is '7'; it takes one of '0', '0\.0'"):
        FeatureRecorder(NETWORK, "7")
    with pytest.raises(ValueError, match="layer is a Linear that is no module of the model"):
        FeatureRecorder(NETWORK, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="got none"):
        layer_metrics(NETWORK, [], 3)
    with pytest.raises(ValueError, match="1 of 4 classes have no samples"):
        layer_metrics(NETWORK, [(X, Y)], 4)
    with pytest.raises(ValueError, match="blocks is empty"):
        LayerwiseTrainer([], 3)
    with pytest.raises(ValueError, match="lr is 0"):
        LayerwiseTrainer([nn.Identity()], 3, lr=0)
    with pytest.raises(ValueError, match="labels go from 0 to 2; they take 0 to 1"):
        LayerwiseTrainer([nn.Flatten()], 2).fit(X, Y)


def test_each_part_gets_its_own_mode_back_and_no_hook_stays():
    NETWORK.train()
    NETWORK[0][1].eval()  # frozen statistics
    layer_metrics(NETWORK, [(X, Y)], 3)
    assert (NETWORK.training, NETWORK[0].training, NETWORK[0][1].training) == (True, True, False)
    with pytest.raises(ValueError, match="layer is 'none'"):
        layer_metrics(NETWORK, [(X, Y)], 3, ["0", "none"])
    assert not any(module._forward_hooks for module in NETWORK.modules())


class Named(nn.Module):
    """Calls a layer by keyword, and another one not at all."""

    def __init__(self):
        super().__init__()
        self.first, self.unused, self.last = nn.Flatten(), nn.ModuleList([nn.Linear(16, 3)]), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(input=self.first(x)).sum(1)


def test_layers_that_are_called_by_keyword_compiled_or_not_at_all():
    model = Named()
    with FeatureRecorder(model, "last", inputs=True) as before, FeatureRecorder(model, model) as after:
        out = model(X)
    torch.testing.assert_close(before.features, X.flatten(1))
    torch.testing.assert_close(after.features, out.detach()[:, None])
    with pytest.raises(RuntimeError, match="through the layer, a ModuleList; call the model, if that calls it"):
        layer_metrics(model, [(X, Y)], 3)
    NETWORK.eval()
    compiled = torch.compile(NETWORK, backend="eager")
    found = layer_metrics(compiled, [(X, Y)], 3, ["_orig_mod.0"])["_orig_mod.0"]
    assert found.nc1_trace == pytest.approx(layer_metrics(NETWORK, [(X, Y)], 3, ["0"])["0"].nc1_trace)
    recurrent = nn.LSTM(4, 4)
    with (
        FeatureRecorder(recurrent, recurrent),
        pytest.raises(TypeError, match="what the layer, a LSTM, keeps is a tuple"),
    ):
        recurrent(torch.ones(2, 4))
