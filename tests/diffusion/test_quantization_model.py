"""Quantised networks: what is replaced, what is calibrated, and what integer kernels make of it."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from paperworks.diffusion import (
    BDIASampler,
    CalibrationSet,
    NoiseScheduleVP,
    QuantConfig,
    QuantModel,
    collect_calibration,
    quantize_diffusion,
    reconstruct,
    wrap_model,
)
from paperworks.diffusion.quantization.layers import QuantLayer


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


class Attention(nn.Module):
    def __init__(self, channels, fused):
        super().__init__()
        self.qkv, self.fused = nn.Conv1d(channels, 3 * channels, 1), fused

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2)).transpose(1, 2).chunk(3, 2)
        if self.fused:
            out = functional.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return x + out.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.two(functional.silu(self.one(x)))


class Network(nn.Module):
    """Convolutions, an embedding of time, and attention."""

    def __init__(self, fused=True, channels=16):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(2, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.block = Block(channels)
        self.attention = Attention(channels, fused)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x, t):
        h = self.first(x) + self.time(torch.stack([t, t.square()], 1))[:, :, None, None]
        return self.last(self.attention(self.block(h)))


class Timed(nn.Module):
    """Layers that need no time."""

    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x, t):
        return self.inner(x)


def calibration(n=48):
    return CalibrationSet(randn(n, 1, 6, 6), torch.linspace(0, 1, n))


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


X, T = randn(20, 1, 6, 6, seed=5), torch.linspace(0, 1, 20)


class TestReplacement:
    def test_both_off_it_is_the_network_and_that_one_is_untouched(self):
        network = Network()
        before = copy.deepcopy(network.state_dict())
        quantized = quantize_diffusion(network, calibration())
        quantized.set_quant_state(weights=False, activations=False)
        assert torch.equal(quantized(X, T), network(X, T))
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())

    def test_more_bits_come_closer(self):
        network = Network()
        errors = [
            relative(quantize_diffusion(network, calibration(), QuantConfig(w, a))(X, T), network(X, T))
            for w, a in ((4, 4), (6, 6), (8, 8), (12, 12))
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[2] < 0.02
        assert errors[3] < 0.002

    def test_one_linear_layer_is_quantised_as_the_definition_says(self):
        network, x = Timed(nn.Linear(3, 5), nn.Linear(5, 3)), randn(64, 3)
        config = QuantConfig(4, 4, scale_method="minmax", symmetric_w=False, symmetric_a=False, first_last_8bit=False)
        quantized = quantize_diffusion(network, CalibrationSet(x, torch.zeros(64)), config)

        def to_grid(value, axis):
            lo, hi = (torch.amin(value, axis, True).clamp_max(0), torch.amax(value, axis, True).clamp_min(0))
            scale = (hi - lo) / 15
            zero_point = torch.round(-lo / scale)
            return (torch.clamp(torch.round(value / scale) + zero_point, 0, 15) - zero_point) * scale

        weights = [to_grid(m.weight, 1) for m in network.inner]
        hidden = functional.linear(x, weights[0], network.inner[0].bias)
        hidden = to_grid(hidden, (0, 1))  # ranges are found behind quantised weights
        expected = functional.linear(hidden, weights[1], network.inner[1].bias)  # what is returned stays as it is
        assert torch.allclose(quantized(x, torch.zeros(64)), expected, atol=1e-5)

    def test_first_and_last_keep_8_bits(self):
        layers = QuantModel(Network(), QuantConfig(4, 4)).layers()
        assert {name: m.weight_quantizer.n_bits for name, m in layers.items()} == {
            "first": 8, "time.0": 4, "time.2": 4, "block.one": 4, "block.two": 4, "last": 8,
        }  # fmt: skip
        assert layers["last"].act_quantizer is None
        assert (
            QuantModel(Network(), QuantConfig(4, first_last_8bit=False)).layers()["last"].weight_quantizer.n_bits == 4
        )

    def test_layers_are_skipped_by_pattern_and_shared_ones_quantised_once(self):
        assert set(QuantModel(Network(), QuantConfig(skip=("time.*", "last"))).layers()) == {
            "first", "block.one", "block.two",
        }  # fmt: skip
        network = Network()
        network.block.two = network.block.one
        quantized = quantize_diffusion(network, calibration())
        assert quantized.model.block.one is quantized.model.block.two
        assert "block.two" not in quantized.layers()

    def test_a_relu_is_quantised_with_its_layer(self):
        quantized = quantize_diffusion(Network(), calibration())
        layer = quantized.layers()["time.0"]
        assert isinstance(layer.activation, nn.ReLU)
        assert layer.act_quantizer.zero_point == 0  # all codes on the positive side

    def test_batch_norms_are_folded(self):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
        network[1].running_mean.copy_(randn(4))
        network.eval()
        quantized = QuantModel(network)
        quantized.set_quant_state(False, False)
        assert isinstance(quantized.model[1], nn.Identity)
        assert torch.allclose(quantized(X), network(X), atol=1e-6)


class TestCalibration:
    @pytest.mark.parametrize("method", ["minmax", "mse", "l1", "cosine", "kl"])
    @pytest.mark.parametrize("ranges", ["histogram", "ema"])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_every_method_keeps_the_output(self, method, ranges, symmetric):
        network = Network()
        config = QuantConfig(
            scale_method=method, ranges=ranges, symmetric_w=symmetric, symmetric_a=symmetric, candidates=20
        )
        quantized = quantize_diffusion(network, calibration(), config, batch_size=16)
        bound = {"minmax": 0.07, "mse": 0.07, "cosine": 0.07, "l1": 0.15, "kl": 0.3}[method]
        assert relative(quantized(X, T), network(X, T)) < bound

    @pytest.mark.parametrize("config", [QuantConfig(), QuantConfig(timewise_groups=3, symmetric_a=False)])
    def test_ranges_over_the_whole_set_do_not_depend_on_batches(self, config):
        by_5, by_48 = (quantize_diffusion(Network(), calibration(), config, batch_size=n) for n in (5, 48))
        for a, b in zip(by_5.activation_quantizers(), by_48.activation_quantizers(), strict=True):
            assert torch.allclose(a.scale, b.scale, rtol=1e-4)

    def test_the_average_is_that_of_the_released_code(self):
        network = Timed(nn.Linear(1, 1), nn.Linear(1, 1))
        nn.init.ones_(network.inner[0].weight)
        nn.init.zeros_(network.inner[0].bias)
        x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
        config = QuantConfig(scale_method="minmax", ranges="ema", order="before")
        quantized = quantize_diffusion(network, CalibrationSet(x, torch.zeros(4)), config, batch_size=2)
        quantizer = next(quantized.activation_quantizers())
        # Bounds of the codes: -128 s and 127 s with s = 2/255 first, then 4/255.
        assert quantizer.scale.item() == pytest.approx((0.9 * 2 + 0.1 * 4) / 255, rel=1e-5)

    def test_groups_of_times_have_scales_of_their_own(self):
        class Growing(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

            def forward(self, x, t):
                return self.b(self.a(x * (1 + 1000 * t[:, None])))

        network = Growing()
        data = CalibrationSet(randn(300, 4), torch.linspace(0, 1, 300).round())
        small = CalibrationSet(data.x, torch.zeros(300))
        one, two = (quantize_diffusion(network, data, QuantConfig(n_bits_w=16, timewise_groups=g)) for g in (1, 2))
        exact = network(small.x, small.t)
        assert relative(two(small.x, small.t), exact) < 0.02 < 0.3 < relative(one(small.x, small.t), exact)
        assert next(two.activation_quantizers()).scale.shape == (2,)
        mixed = two(data.x, data.t)
        for t in (0.0, 1.0):
            chosen = data.t == t
            assert torch.allclose(mixed[chosen], two(data.x[chosen], data.t[chosen]), atol=1e-5)
            assert torch.allclose(mixed[chosen], two(data.x[chosen], t=torch.full((1,), t)), atol=1e-5)

    def test_a_saved_model_is_loaded_into_a_fresh_one(self):
        for config in (QuantConfig(quantize_attention=True), QuantConfig(timewise_groups=2)):
            quantized = quantize_diffusion(Network(), calibration(), config)
            fresh = QuantModel(Network(), config)
            fresh.load_state_dict(quantized.state_dict())
            assert torch.equal(fresh(X, T), quantized(X, T))

    def test_bad_input(self):
        with pytest.raises(ValueError, match="model has no layer to quantise"):
            QuantModel(nn.GELU())
        with pytest.raises(ValueError, match="skip="):
            QuantModel(Network(), QuantConfig(skip=("*",)))
        with pytest.raises(RuntimeError, match="no scale yet"):
            QuantModel(Network())(X, T)
        network = Network()
        network.block.one.weight.data[0, 0, 0, 0] = torch.inf
        with pytest.raises(ValueError, match="x has 1 NaN or infinite"):
            quantize_diffusion(network, calibration())
        network = Network()
        network.block.one.bias.data[0] = torch.nan
        with pytest.raises(ValueError, match="an activation has"):
            quantize_diffusion(network, calibration())
        with pytest.raises(ValueError, match="timewise_groups is 100; the calibration set has only 48"):
            quantize_diffusion(Network(), calibration(), QuantConfig(timewise_groups=100))


class TestAttention:
    @pytest.mark.parametrize("fused", [True, False])
    def test_both_products_are_quantised(self, fused):
        network = Network(fused)
        quantized = quantize_diffusion(network, calibration(), QuantConfig(quantize_attention=True))
        assert "attention.qkv" in quantized.layers()
        (operands,) = quantized.attention.values()
        assert len(operands.quantizers) == 4
        assert 0 < relative(quantized(X, T), network(X, T)) < 0.02

    def test_fused_attention_and_its_parts_give_the_same(self):
        found = [
            quantize_diffusion(Network(fused), calibration(), QuantConfig(quantize_attention=True))(X, T)
            for fused in (True, False)
        ]
        assert relative(found[0], found[1]) < 0.01  # the parts scale after the product, the codes differ a little

    def test_probabilities_on_a_grid(self):
        seen = []
        quantized = quantize_diffusion(Network(), calibration(), QuantConfig(quantize_attention=True, n_bits_a=2))
        (operands,) = quantized.attention.values()
        operands.quantizers[3].register_forward_hook(lambda m, args, out: seen.append(out))
        quantized(X, T)
        assert len(seen[0].unique()) <= 4


class TestIntegers:
    def quantized(self, network, **options):
        return quantize_diffusion(network, calibration(), QuantConfig(activations="input", **options))

    @pytest.mark.parametrize("options", [{}, {"symmetric_a": False}, {"channel_wise": False}, {"n_bits_a": 6}])
    def test_integer_kernels_compute_what_is_simulated(self, options):
        simulated = self.quantized(Network(), **options)
        fast = simulated.to_int8()
        # Where 16-bit sums could overflow, a channel is coded more coarsely.
        assert relative(fast(X, T), simulated(X, T)) < 0.02

    def test_the_default_setting_becomes_integers_as_near_to_the_network_as_it_is(self):
        network = Network()
        simulated = quantize_diffusion(network, calibration(), QuantConfig())
        fast = simulated.to_int8()
        assert not any(isinstance(module, QuantLayer) for module in fast.modules())
        assert relative(fast(X, T), network(X, T)) < 1.5 * relative(simulated(X, T), network(X, T)) + 1e-3
        saved = QuantModel(network)
        saved.load_state_dict(simulated.state_dict())
        assert torch.equal(saved.to_int8()(X, T), fast(X, T))

    def test_codes_of_a_layer_are_exact_where_they_fit(self):
        layer = self.quantized(Network()).layers()["block.one"]
        from paperworks.diffusion.quantization.integer import signed_codes

        codes, scale = signed_codes(layer, pairs_in_16_bits=False)
        weight = layer.quantized_weight()
        assert torch.allclose(codes * scale[:, None, None, None], weight, atol=1e-6)
        codes, _ = signed_codes(layer, pairs_in_16_bits=True)
        for sign in (1, -1):
            pairs = (sign * codes.flatten(1).int()).clamp_min(0).topk(2, 1).values.sum(1)
            assert pairs.max() * 255 < 2**15

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=(1, 2), groups=2),
            nn.Conv2d(8, 8, 1, bias=False),
            nn.Conv2d(8, 8, 3, padding="same"),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        ],
    )
    def test_geometry(self, layer):
        x = randn(4, 8, 9, 9)
        data = CalibrationSet(x, torch.zeros(4))
        simulated = quantize_diffusion(Timed(layer), data, QuantConfig(activations="input"))
        assert relative(simulated.to_int8()(x, data.t), simulated(x, data.t)) < 0.02
        assert relative(simulated.to_int8()(x[:2], data.t[:2]), simulated(x[:2], data.t[:2])) < 0.02

    def test_it_is_copied_and_saved(self):
        fast = self.quantized(Network()).to_int8()
        out = fast(X, T)
        assert torch.equal(copy.deepcopy(fast)(X, T), out)
        other = self.quantized(Network()).to_int8()
        other.load_state_dict(fast.state_dict())
        assert torch.equal(other(X, T), out)

    def test_sizes(self):
        network = Timed(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3))
        data = CalibrationSet(randn(2, 64, 8, 8), torch.zeros(2))
        weights, others = 2 * 64 * 64 * 9, 2 * 64 * 4
        for bits in (4, 8):
            config = QuantConfig(n_bits_w=bits, first_last_8bit=False)
            size = quantize_diffusion(network, data, config).size_bytes()
            # Codes, biases, a scale and a zero point per channel, and the scale and zero point of one activation.
            assert size == weights * bits // 8 + others + 128 * 4 + 128 + 8
        fast = quantize_diffusion(network, data, QuantConfig(activations="input")).to_int8()
        assert weights + others <= fast.size_bytes() <= weights + others + 128 * 4 + 64

    def test_bad_input(self):
        for options in ({"n_bits_w": 9}, {"timewise_groups": 2}, {"activations": "input", "symmetric_w": False}):
            quantized = quantize_diffusion(Network(), calibration(), QuantConfig(**options))
            with pytest.raises(ValueError, match="model is quantised with"):
                quantized.to_int8()


class TestReconstruction:
    @pytest.mark.parametrize("unit", ["layer", "block"])
    def test_it_lowers_the_error_of_few_bits(self, unit):
        network, data = Network(), calibration(128)
        quantized = quantize_diffusion(network, data, QuantConfig(3, 8, first_last_8bit=False))
        before = relative(quantized(X, T), network(X, T))
        codes = quantized.layers()["block.one"].quantized_weight()
        reconstruct(quantized, data, unit, steps=60, lr=2e-2, generator=rng())
        assert relative(quantized(X, T), network(X, T)) < 0.85 * before
        layer = quantized.layers()["block.one"]
        steps = (layer.quantized_weight() - codes).detach() / layer.weight_quantizer.scale.reshape(-1, 1, 1, 1)
        assert torch.allclose(steps, steps.round(), atol=1e-3)  # only the rounding has changed
        assert steps.abs().max() == pytest.approx(1, abs=1e-3)

    def test_the_same_generator_gives_the_same_model(self):
        data = calibration()
        one, two = (reconstruct(quantize_diffusion(Network(), data), data, steps=5, generator=rng(3)) for _ in range(2))
        assert torch.equal(one(X, T), two(X, T))
        saved = QuantModel(Network())
        saved.load_state_dict(one.state_dict())
        assert torch.equal(saved(X, T), one(X, T))

    def test_bad_input(self):
        quantized = QuantModel(Network())
        quantized.set_quant_state(False, False)
        with pytest.raises(RuntimeError, match="not calibrated"):
            reconstruct(quantized, calibration(), generator=rng())
        for options in ({"keep_share": 0.0}, {"warmup": 1.0}, {"steps": 0}, {"lr": 0.0}):
            with pytest.raises(ValueError, match=next(iter(options))):
                reconstruct(quantize_diffusion(Network(), calibration()), calibration(), generator=rng(), **options)


def test_it_goes_where_the_network_went():
    schedule, network = NoiseScheduleVP.linear(), Network()
    data = collect_calibration(network, schedule, (1, 6, 6), 64, steps=10, generator=rng())
    quantized = quantize_diffusion(network, data, QuantConfig(16, 16))
    assert quantized.block.one is quantized.model.block.one
    with torch.no_grad():
        exact, found = (
            BDIASampler(wrap_model(m, schedule), schedule, gamma=0.0).sample(X, 10).sample for m in (network, quantized)
        )
    assert relative(found, exact) < 0.02


@cache
def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).eval()  # fmt: skip


UNET_DATA = CalibrationSet(randn(8, 1, 8, 8), torch.arange(8) * 100)


def test_a_network_of_diffusers_keeps_its_attributes():
    network = unet()
    quantized = quantize_diffusion(network, UNET_DATA, QuantConfig(quantize_attention=True))
    with torch.no_grad():
        assert relative(quantized(UNET_DATA.x, UNET_DATA.t).sample, network(UNET_DATA.x, UNET_DATA.t).sample) < 0.05
    assert quantized.attention
    for model in (quantized, quantize_diffusion(network, UNET_DATA).to_int8()):
        assert model.config == network.config
        assert model.config.in_channels == model.in_channels == 1
        assert model.dtype == torch.float32
        assert model.device == network.device
    assert quantized.quant_config.quantize_attention


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("options", [{}, {"quantize_attention": True, "n_bits_w": 4, "skip": ("conv_in",)}])
def test_it_runs_in_a_pipeline_and_is_saved_and_loaded_with_it(options, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    quantized = quantize_diffusion(unet(), UNET_DATA, QuantConfig(**options))

    def images(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=4, output_type="np").images

    pipeline = diffusers.DDPMPipeline(quantized, diffusers.DDPMScheduler())
    found = images(pipeline)
    assert found.shape == (2, 8, 8, 1)
    pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.unet) is QuantModel
    assert loaded.unet.quant_config == quantized.quant_config
    assert (images(loaded) == found).all()
    alone = QuantModel.from_pretrained(tmp_path, "unet")
    with torch.no_grad():
        assert torch.equal(alone(UNET_DATA.x, UNET_DATA.t).sample, quantized(UNET_DATA.x, UNET_DATA.t).sample)
        if not options:
            integers = [model.to_int8() for model in (alone, quantized)]
            assert torch.equal(*(model(UNET_DATA.x, UNET_DATA.t).sample for model in integers))
            pipeline.unet = integers[0]
            assert images(pipeline).shape == (2, 8, 8, 1)


def test_a_network_of_another_kind_is_loaded_into_one_like_it(tmp_path):
    quantized = quantize_diffusion(Network(), calibration(), QuantConfig(timewise_groups=3))
    quantized.save_pretrained(tmp_path)
    assert torch.equal(QuantModel.from_pretrained(tmp_path, model=Network())(X, T), quantized(X, T))
    with pytest.raises(ValueError, match="names no network of diffusers"):
        QuantModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="push_to_hub is True"):
        quantized.save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(FileNotFoundError):
        QuantModel.from_pretrained(tmp_path / "nowhere")


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    quantized = quantize_diffusion(Network(), calibration(), QuantConfig())
    quantized.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def die(content, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="no space"):
        quantize_diffusion(Network(), calibration(), QuantConfig(n_bits_w=4)).save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_damaged_file_is_named(tmp_path):
    quantized = quantize_diffusion(Network(), calibration(), QuantConfig())
    for name, content in (("quantization.json", b"{}"), ("quantization.json", b""), ("quantization.json", b"[]"),
                          ("quantized_model.pt", b""), ("quantized_model.pt", b"no tensors")):  # fmt: skip
        quantized.save_pretrained(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} holds no"):
            QuantModel.from_pretrained(tmp_path, model=Network())
    with pytest.raises(TypeError, match="call to_int8 on what"):
        quantized.to_int8().save_pretrained(tmp_path)


def test_threads_at_different_times_get_their_own_groups():
    quantized = quantize_diffusion(Network(), calibration(), QuantConfig(timewise_groups=3))
    times = [torch.full_like(T, float(t)) for t in (T.min(), T.median(), T.max())]
    expected = [quantized(X, t) for t in times]

    def differs(i):
        return sum(not torch.equal(quantized(X, times[i % 3]), expected[i % 3]) for _ in range(20))

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(differs, range(6))) == 0
