import sys

import pytest
import torch

from paperworks.testbeds import peers


def test_samplers_of_k_diffusion_run():
    pytest.importorskip("torchsde")
    before = set(sys.modules)
    try:
        sampling = peers.load_k_diffusion_sampling()
    except ImportError:
        pytest.skip("k-diffusion isn't installed")
    # One Gaussian at 0.5 with deviation 1: the sampler ends on its deterministic image of the start.
    denoise = lambda x, sigma, **_: 0.5 + (x - 0.5) / (1 + sigma[:, None] ** 2)  # noqa: E731
    sigmas = sampling.get_sigmas_karras(60, 0.01, 50.0).double()
    x = torch.tensor([[0.5 + 50.0]], dtype=torch.float64)
    end = sampling.sample_lms(denoise, x, sigmas, disable=True)
    assert end.item() == pytest.approx(0.5 + 50 / (1 + 50**2) ** 0.5, abs=5e-3)
    assert not any(name.startswith("torchvision") for name in set(sys.modules) - before)
    assert "k_diffusion" not in set(sys.modules) - before


def test_missing_k_diffusion_says_how_to_install_it(monkeypatch):
    peers.load_k_diffusion_sampling.cache_clear()
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps k-diffusion"):
        peers.load_k_diffusion_sampling()
    peers.load_k_diffusion_sampling.cache_clear()
