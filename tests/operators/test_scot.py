"""The scalable operator transformer: its parts against brute force, sizes, checkpoints, and what is refused."""

import copy
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from paperworks.operators import ScOT, ScOTConfig, fourier_resample
from paperworks.operators.scot.blocks import Block, PatchMerging, PatchUnmerging, WindowAttention
from paperworks.operators.scot.norms import ConditionalLayerNorm
from paperworks.operators.scot.windows import parted, partition, relative_places, reverse

SMALL = ScOTConfig(
    image_size=16,
    patch_size=2,
    in_channels=2,
    out_channels=2,
    embed_dim=8,
    depths=(2, 2),
    num_heads=(2, 4),
    skip_blocks=(1, 0),
    window_size=4,
)


def small(**options):
    """A network whose weights are all of the size of 1, so that nothing is off at the start."""
    torch.manual_seed(0)
    network = ScOT(ScOTConfig(**{**SMALL.__dict__, **options})).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def fields(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "count"), {"T": 20774444}.items())  # the others are claim c1
def test_published_sizes_have_their_parameters(size, count):
    with torch.device("meta"):
        network = ScOT.from_size(size)
    assert sum(p.numel() for p in network.parameters()) == count


# Grids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "other"), [((8, 8), (16, 12)), ((9, 8), (15, 13)), ((8, 9), (8, 12)), ((5, 6), (6, 7))]
)
def test_a_band_limited_field_comes_back_from_another_grid(start, other):
    x, y = (torch.arange(n, dtype=torch.float64) / n * 2 * math.pi for n in start)
    p, q = (torch.arange(n, dtype=torch.float64) / n * 2 * math.pi for n in other)

    def wave(a, b):
        return 1 + torch.sin(2 * a[:, None] - b + 0.3) + torch.cos(a[:, None] + 2 * b)

    there = fourier_resample(wave(x, y), other)
    assert (there - wave(p, q)).abs().max() < 1e-13
    assert (fourier_resample(there, start) - wave(x, y)).abs().max() < 1e-13


def test_resampling_leaves_out_the_modes_that_a_coarse_grid_lacks_and_keeps_types():
    x = torch.arange(16, dtype=torch.float64) / 16 * 2 * math.pi
    coarse = fourier_resample((torch.sin(x) + torch.sin(6 * x)).expand(1, 16, 16), (8, 8))
    assert (coarse[0, 0] - torch.sin(x[::2])).abs().max() < 1e-13
    assert fourier_resample(torch.ones(4, 4, dtype=torch.bfloat16), (6, 6)).dtype == torch.bfloat16
    # The highest mode of an even grid becomes a cosine, neither doubled nor lost.
    signs = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64).expand(8, 8)
    assert (fourier_resample(signs, (8, 16))[0] - torch.cos(4 * x)).abs().max() < 1e-13


@pytest.mark.usefixtures("untyped")
def test_what_has_no_modes_is_not_resampled():
    for bad in (torch.ones(4, 4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="floating-point"):
            fourier_resample(bad, (8, 8))
    for size in (8, (8, 8, 8), (0, 8)):
        with pytest.raises(ValueError, match="size is"):
            fourier_resample(torch.ones(4, 4), size)
    with pytest.raises(ValueError, match="x has shape"):
        fourier_resample(torch.ones(2, 0, 4), (8, 8))
    assert fourier_resample(torch.ones(0, 4, 4), (8, 6)).shape == (0, 8, 6)


@pytest.mark.parametrize(("grid", "window"), [((8, 8), (4, 4)), ((4, 12), (2, 3))])
def test_windows_are_cut_row_by_row_and_put_together(grid, window):
    x = torch.arange(2 * grid[0] * grid[1] * 3).view(2, *grid, 3)
    cut = partition(x, window)
    h, w = window
    across = grid[1] // w
    for n in range(cut.shape[1]):
        i, j = n // across * h, n % across * w
        assert torch.equal(cut[:, n], x[:, i : i + h, j : j + w].reshape(2, h * w, 3))
    assert torch.equal(reverse(cut, window, grid), x)


@pytest.mark.parametrize(
    ("grid", "window", "shift"), [((8, 8), (4, 4), (2, 2)), ((12, 8), (4, 4), (1, 2)), ((8, 4), (4, 4), (2, 0))]
)
def test_pairs_are_parted_where_a_roll_made_them_neighbours(grid, window, shift):
    apart = parted(grid, window, shift)
    places = [(i, j) for i in range(grid[0]) for j in range(grid[1])]
    rolled = torch.tensor(places).view(1, *grid, 2).roll((-shift[0], -shift[1]), (1, 2))
    tokens = partition(rolled, window)[0]
    for n in range(len(tokens)):
        for a in range(tokens.shape[1]):
            for b in range(tokens.shape[1]):
                far = (tokens[n, a] - tokens[n, b]).abs()
                # True neighbours lie within a window's reach of each other on the grid itself.
                assert apart[n, a, b] == bool(far[0] >= window[0] or far[1] >= window[1])


def test_relative_places_are_those_of_the_pairs():
    places, number = relative_places((3, 4))
    assert places.shape == (5 * 7, 2)
    for a in range(12):
        for b in range(12):
            rows, columns = a // 4 - b // 4, a % 4 - b % 4
            expected = [math.copysign(math.log2(1 + abs(8 * d / n)) / 3, d) for d, n in ((rows, 2), (columns, 3))]
            assert places[number[a, b]].tolist() == pytest.approx(expected, abs=1e-15)
    assert relative_places((1, 1))[0].tolist() == [[0.0, 0.0]]


# Parts ------------------------------------------------------------------------------------------------------


def test_a_conditional_norm_is_its_formula_with_its_gradients():
    norm = ConditionalLayerNorm(5, init="small").double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x, t = fields(3, 2, 5).requires_grad_(), fields(3, seed=1).abs()
    a, b = norm.weight.weight[:, 0], norm.weight.bias
    c, d = norm.bias.weight[:, 0], norm.bias.bias
    z = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    time = t[:, None, None]
    expected = (a * time + b) * z + c * time + d
    found = norm(x, t)
    assert (found - expected).abs().max() < 1e-13
    weights = [x, *norm.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(found.sin().sum(), weights),
        torch.autograd.grad(expected.sin().sum(), weights),
        strict=True,
    ):
        assert (mine - theirs).abs().max() < 1e-12


def test_a_conditional_norm_keeps_digits_where_the_mean_is_large():
    norm = ConditionalLayerNorm(64)
    x = fields(1, 4, 64)
    shifted = (x + 4096).float()
    exact = torch.nn.functional.layer_norm(shifted.double(), (64,))
    assert (norm(shifted, torch.zeros(1)) - exact).abs().max() < 1e-3  # E[x^2] - E[x]^2 has an error of about 1


def test_initial_norms_are_nearly_off_or_plain():
    for init, scale in (("small", 0.0), ("identity", 1.0)):
        network = ScOT(ScOTConfig(**{**SMALL.__dict__, "cln_init": init}))
        norms = [m for m in network.modules() if isinstance(m, ConditionalLayerNorm)]
        assert len(norms) == 1 + 2 * 8 + 1 + 2
        drawn = torch.cat([m.weight.weight.flatten() for m in norms])
        assert torch.cat([m.weight.bias for m in norms]).eq(scale).all()
        assert not torch.cat([m.bias.bias for m in norms]).any()
        assert drawn.std().item() == pytest.approx(0.02 if init == "small" else 0, rel=0.2)
    # As published, at time 0 the network sees nothing of its input: residual branches and embedding are off.
    blind = ScOT(SMALL).eval()
    assert torch.equal(
        blind(torch.ones(1, 2, 16, 16), torch.zeros(1)), blind(torch.zeros(1, 2, 16, 16), torch.zeros(1))
    )
    assert not torch.equal(
        blind(torch.eye(16).expand(1, 2, 16, 16), torch.ones(1)), blind(torch.zeros(1, 2, 16, 16), torch.ones(1))
    )


def attention_of_pairs(attention, x, window, apart):
    """Softmax over the tokens of a window, one query after another."""
    heads, d = attention.heads, x.shape[-1] // attention.heads
    places, number = relative_places(window)
    bias = 16 * torch.sigmoid(attention.continuous_position_bias_mlp(places))
    windows, out = partition(x, window), torch.zeros_like(partition(x, window))
    for b in range(len(windows)):
        for n in range(windows.shape[1]):
            q, k, v = (f(windows[b, n]).view(-1, heads, d) for f in (attention.query, attention.key, attention.value))
            for h in range(heads):
                sharpness = min(attention.logit_scale[h].exp().item(), 100)
                for i in range(len(q)):
                    cosine = torch.nn.functional.cosine_similarity(q[i, h][None], k[:, h], dim=-1)
                    logits = sharpness * cosine + bias[number[i], h]
                    logits = logits.masked_fill(apart[n, i], -torch.inf) if apart is not None else logits
                    out[b, n, i, h * d : (h + 1) * d] = logits.softmax(0) @ v[:, h]
    return reverse(out, window, x.shape[1:3])


@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
def test_attention_is_that_of_each_query_by_itself(shift):
    torch.manual_seed(0)
    attention = WindowAttention(6, 2).double()
    with torch.no_grad():
        attention.logit_scale.copy_(torch.tensor([1.0, 9.0]).view(2, 1, 1))  # the second one beyond the greatest
    x, window = fields(2, 4, 6, 6), (4, 3)
    apart = None if shift == (0, 0) else parted((4, 6), window, shift)
    expected = attention_of_pairs(attention, x, window, apart)
    assert (attention(x, window, shift) - expected).abs().max() < 1e-12  # with gradients
    with torch.no_grad():
        assert (attention(x, window, shift) - expected).abs().max() < 1e-12  # by the fused kernel


def test_gradients_of_attention_are_those_of_differences():
    torch.manual_seed(0)
    attention = WindowAttention(4, 2).double()
    assert torch.autograd.gradcheck(lambda x: attention(x, (2, 2), (1, 1)), fields(1, 4, 4, 4).requires_grad_())
    bias = attention.continuous_position_bias_mlp[2].weight
    x = fields(1, 4, 4, 4)
    (slope,) = torch.autograd.grad(attention(x, (2, 2), (1, 1)).sin().sum(), bias)
    direction = fields(*bias.shape, seed=2)
    ends = []
    for step in (1e-6, -1e-6):
        moved = copy.deepcopy(attention)
        moved.continuous_position_bias_mlp[2].weight.data.add_(step * direction)
        ends.append(moved(x, (2, 2), (1, 1)).sin().sum())
    assert (ends[0] - ends[1]).item() / 2e-6 == pytest.approx((slope * direction).sum().item(), rel=1e-6)


def test_remembered_biases_follow_the_weights():
    network, x, t = small(), fields(1, 2, 16, 16), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        before = network(x, t)
        assert torch.equal(network(x, t), before)
        state = copy.deepcopy(network.state_dict())
        for parameter in network.parameters():
            parameter.mul_(1.1)
        changed = network(x, t)
        assert not torch.equal(changed, before)
        again = pickle.loads(pickle.dumps(network))
        assert torch.equal(again(x, t), changed)
        network.load_state_dict(state)
        assert torch.equal(network(x, t), before)
        assert network.float()(x.float(), t).dtype == torch.float32
        assert (network.double()(x, t) - before).abs().max() < 1e-4
    assert torch.equal(small()(x, t).detach(), small().requires_grad_(False)(x, t)) or (
        (small()(x, t) - before).abs().max() < 1e-12
    )


def test_remembered_biases_follow_changes_that_leave_no_trace_and_other_modes():
    network, x, t = small().float(), fields(2, 2, 16, 16).float(), torch.ones(2)
    with torch.no_grad():
        before = network(x, t)
        for parameter in network.parameters():
            parameter.data.mul_(1.1)  # counts no version up
        assert torch.equal(network(x, t), copy.deepcopy(network)(x, t))
        assert not torch.equal(network(x, t), before)
        exact = network(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(x, t).dtype == torch.bfloat16
        assert torch.equal(network(x, t), exact)
        halved = {name: p / 2 for name, p in network.named_parameters()}
        assert not torch.equal(torch.func.functional_call(network, halved, (x, t)), exact)
        assert torch.equal(network(x, t), exact)
    network.requires_grad_(False)
    with torch.inference_mode():
        network(x, t)
    x.requires_grad_()
    network(x, t).sum().backward()  # what inference mode remembered can't be differentiated through
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("resample", [False, True])
def test_no_samples_and_no_memory_are_taken(resample):
    network = small(resample=resample)
    for size in (16, 8):
        assert network(fields(0, 2, size, size), torch.ones(0)).shape == (0, 2, size, size)
        with torch.no_grad():
            assert network(fields(0, 2, size, size), torch.ones(0)).shape == (0, 2, size, size)
    x, t = torch.empty(3, 2, 8, 8, dtype=torch.float64, device="meta"), torch.empty(3, device="meta")
    with torch.no_grad():
        assert network.to("meta")(x, t).shape == (3, 2, 8, 8)


def test_the_first_block_of_the_decoder_is_the_last_one_of_the_encoder():
    network = ScOT(SMALL)
    shifted = [[block.shifted for block in stage.blocks] for stage in network.encoder.layers]
    assert shifted == [[False, True], [False, True]]
    assert [[block.shifted for block in stage.blocks] for stage in network.decoder.layers] == [[True, False]] * 2


def test_shifts_roll_tokens_and_small_grids_are_one_window(monkeypatch):
    seen = []
    monkeypatch.setattr(
        WindowAttention, "forward", lambda self, x, window, shift: seen.append((x.shape, window, shift)) or x
    )
    block = Block(SMALL, 8, 2, shifted=True, drop_path=0.0)
    block.attention["output"] = torch.nn.Identity()
    for grid in ((8, 8), (4, 4), (3, 8), (10, 9)):
        x = torch.randn(1, *grid, 8)
        assert torch.equal(block.attend(x), x)
    assert [(tuple(shape[1:3]), window, shift) for shape, window, shift in seen] == [
        ((8, 8), (4, 4), (2, 2)),
        ((4, 4), (4, 4), (0, 0)),
        ((3, 8), (3, 4), (0, 2)),
        ((12, 12), (4, 4), (2, 2)),
    ]


class FirstOf(torch.nn.Module):
    def forward(self, x, time):
        return x


def test_merging_takes_four_neighbours_rows_first_and_unmerging_puts_four_back():
    plain = ScOTConfig(**{**SMALL.__dict__, "time_conditioning": False})
    merging, unmerging = PatchMerging(plain, 2), PatchUnmerging(plain, 4)
    merging.norm = unmerging.norm = FirstOf()
    merging.reduction = unmerging.mixup = torch.nn.Identity()
    unmerging.upsample = torch.nn.Linear(4, 8)
    torch.nn.init.zeros_(unmerging.upsample.weight)
    unmerging.upsample.bias.data = torch.arange(8.0)
    x = torch.arange(5 * 4.0).view(1, 5, 4, 1).expand(-1, -1, -1, 2)
    merged = merging(x, None)
    assert merged.shape == (1, 3, 2, 8)
    assert merged[0, 1, 0, ::2].tolist() == [8, 12, 9, 13]
    assert merged[0, 2, 1, ::2].tolist() == [18, 0, 19, 0]
    token = torch.zeros(1, 1, 1, 4)
    assert unmerging(token, None, (2, 2)).flatten().tolist() == list(range(8))
    assert unmerging(token, None, (1, 2)).flatten().tolist() == [0, 1, 2, 3]


def test_branches_are_left_out_of_training_alone_and_all_on_average():
    block = Block(SMALL, 8, 2, shifted=False, drop_path=0.25)
    torch.manual_seed(0)
    ones = torch.ones(4000, 1, 1, 1)
    kept = block._dropped(ones)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert block.eval()._dropped(ones) is ones
    rates = [
        b.drop_path for s in ScOT(ScOTConfig(**{**SMALL.__dict__, "drop_path": 0.7})).encoder.layers for b in s.blocks
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


# The whole --------------------------------------------------------------------------------------------------


def test_samples_have_lead_times_of_their_own():
    network, x = small(), fields(3, 2, 16, 16)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    rows = [network(x[i : i + 1], t[i : i + 1]) for i in range(3)]
    assert (network(x, t) - torch.cat(rows)).abs().max() < 1e-12
    assert (network(x, t) - network(x, t.flip(0)))[::2].abs().min(1).values.max() > 1e-3


def test_other_grids_are_resampled_or_worked_on():
    network, t = small(), torch.ones(1, dtype=torch.float64)
    coarse = fields(1, 2, 8, 8)
    inner = network(fourier_resample(coarse, (16, 16)), t)
    assert (network(coarse, t) - fourier_resample(inner, (8, 8))).abs().max() < 1e-12
    native = small(resample=False)
    assert torch.equal(native(fields(1, 2, 16, 16), t), network(fields(1, 2, 16, 16), t))
    for grid in ((8, 8), (12, 20), (15, 9), (6, 4)):  # with tokens missing to patches, windows and pairs
        assert native(fields(1, 2, *grid), t).shape == (1, 2, *grid)


def test_rectangles_of_the_networks_proportions_are_taken():
    network, t = small(image_size=(16, 24)), torch.ones(1, dtype=torch.float64)
    assert network(fields(1, 2, 8, 12), t).shape == (1, 2, 8, 12)
    with pytest.raises(ValueError, match="16 by 24"):
        network(fields(1, 2, 16, 16), t)
    # What is turned by a right angle is another problem: rows and columns aren't mixed up with each other.
    turned = small(image_size=(24, 16))
    with torch.no_grad():
        for module in turned.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.weight.copy_(module.weight.mT.clone())
            if isinstance(module, WindowAttention):
                module.continuous_position_bias_mlp[0].weight.copy_(
                    module.continuous_position_bias_mlp[0].weight.flip(1)
                )
            if isinstance(module, PatchMerging):
                order = torch.arange(32).view(2, 2, 8).transpose(0, 1).flatten()
                module.reduction.weight.copy_(module.reduction.weight[:, order])
            if isinstance(module, PatchUnmerging):
                order = torch.arange(32).view(2, 2, 8).transpose(0, 1).flatten()
                module.upsample.weight.copy_(module.upsample.weight[order])
    x = fields(1, 2, 16, 24)
    assert (turned(x.mT, t).mT - network(x, t)).abs().max() < 1e-12


def test_a_learned_residual_adds_the_first_channels():
    with_residual, without = small(in_channels=3, learn_residual=True), small(in_channels=3)
    x, t = fields(1, 3, 16, 16), torch.ones(1, dtype=torch.float64)
    assert (with_residual(x, t) - without(x, t) - x[:, :2]).abs().max() < 1e-12


def test_positions_are_added_to_tokens_of_their_own_grid():
    network, t = small(absolute_positions=True, resample=False), torch.ones(1, dtype=torch.float64)
    assert network(fields(1, 2, 16, 16), t).shape == (1, 2, 16, 16)
    with pytest.raises(ValueError, match="it takes 8 by 8"):
        network(fields(1, 2, 8, 8), t)
    with pytest.raises(ValueError, match="4 by 16 patches"):  # as many, but in other places
        network(fields(1, 2, 8, 32), t)
    assert small(absolute_positions=True, image_size=15)(fields(1, 2, 15, 15), t).shape == (1, 2, 15, 15)


@pytest.mark.usefixtures("untyped")
def test_what_a_network_is_called_with_is_checked():
    network, x = small(), fields(2, 2, 16, 16)
    with pytest.raises(ValueError, match="x has shape"):
        network(x[:, :1], torch.ones(2))
    with pytest.raises(ValueError, match="proportions"):
        network(fields(2, 2, 16, 8), torch.ones(2))
    with pytest.raises(ValueError, match="x has shape"):
        network(x[:, :, :0, :0], torch.ones(2))
    for bad in (None, torch.ones(1), torch.ones(2, 1), 1.0, [1.0, 1.0]):
        with pytest.raises(ValueError, match=r"lead_time is .*; it takes a tensor"):
            network(x, bad)
    for bad in (-0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"lead_time has (-0.5|nan|inf)"):
            network(x, torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="without time_conditioning"):
        small(time_conditioning=False)(x, torch.ones(2))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_heads": (3, 4)}, "num_heads"),
        ({"depths": (2,)}, "depths"),
        ({"embed_dim": 7, "num_heads": (1, 1)}, "embed_dim"),
        ({"patch_size": 0}, "patch_size"),
        ({"image_size": (16, 16, 16)}, "image_size"),
        ({"p": 3}, "p is 3"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"learn_residual": True, "in_channels": 1}, "learn_residual"),
        ({"learn_residual": True, "time_conditioning": False}, "time_conditioning"),
        ({"channel_groups": (1, 2)}, "channel_groups"),
        ({"channel_groups": (3, -1)}, "channel_groups"),
        ({"mlp_ratio": 0.1}, "mlp_ratio"),
        ({"cln_init": "zero"}, "cln_init"),
    ],
)
def test_configurations_that_fit_no_network_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        ScOTConfig(**{**SMALL.__dict__, **options})
    with pytest.raises(ValueError, match="size"):
        ScOT.from_size("XL")


# Checkpoints ------------------------------------------------------------------------------------------------


def published(c_in=2, c_out=1, d=4, heads=(1, 2), hidden=512):
    """Names and shapes as the authors' code has them, of two stages with one block each and one block of a skip."""

    def linear(name, i, o, bias=True):
        return {f"{name}.weight": (o, i)} | ({f"{name}.bias": (o,)} if bias else {})

    def norm(name, n):
        return linear(f"{name}.weight", 1, n) | linear(f"{name}.bias", 1, n)

    def block(name, n, h):
        self, mlp = f"{name}.attention.self", f"{name}.attention.self.continuous_position_bias_mlp"
        return (
            {f"{self}.logit_scale": (h, 1, 1)}
            | linear(f"{mlp}.0", 2, hidden)
            | linear(f"{mlp}.2", hidden, h, bias=False)
            | linear(f"{self}.query", n, n)
            | linear(f"{self}.key", n, n, bias=False)
            | linear(f"{self}.value", n, n)
            | linear(f"{name}.attention.output.dense", n, n)
            | norm(f"{name}.layernorm_before", n)
            | linear(f"{name}.intermediate.dense", n, 4 * n)
            | linear(f"{name}.output.dense", 4 * n, n)
            | norm(f"{name}.layernorm_after", n)
        )

    skip = "residual_blocks.0.0"
    return (
        {"embeddings.patch_embeddings.projection.weight": (d, c_in, 2, 2)}
        | {"embeddings.patch_embeddings.projection.bias": (d,)}
        | norm("embeddings.norm", d)
        | block("encoder.layers.0.blocks.0", d, heads[0])
        | linear("encoder.layers.0.downsample.reduction", 4 * d, 2 * d, bias=False)
        | norm("encoder.layers.0.downsample.norm", 2 * d)
        | block("encoder.layers.1.blocks.0", 2 * d, heads[1])
        | block("decoder.layers.0.blocks.0", 2 * d, heads[1])
        | linear("decoder.layers.0.upsample.upsample", 2 * d, 4 * d, bias=False)
        | linear("decoder.layers.0.upsample.mixup", d, d, bias=False)
        | norm("decoder.layers.0.upsample.norm", d)
        | block("decoder.layers.1.blocks.0", d, heads[0])
        | {f"{skip}.dwconv.weight": (d, 1, 7, 7), f"{skip}.dwconv.bias": (d,), f"{skip}.weight": (d,)}
        | norm(f"{skip}.norm", d)
        | linear(f"{skip}.pwconv1", d, 4 * d)
        | linear(f"{skip}.pwconv2", 4 * d, d)
        | {"patch_recovery.projection.weight": (d, c_out, 2, 2), "patch_recovery.projection.bias": (c_out,)}
        | {"patch_recovery.mixup.weight": (c_out, c_out, 5, 5)}
    )


PUBLISHED_CONFIG = {
    "architectures": ["ScOT"],
    "model_type": "swinv2",
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 2,
    "num_out_channels": 1,
    "embed_dim": 4,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "skip_connections": [1, 0],
    "window_size": 2,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,
    "hidden_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_absolute_embeddings": False,
    "use_conditioning": True,
    "learn_residual": False,
    "residual_model": "convnext",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "p": 1,
    "channel_slice_list_normalized_loss": [0, 1],
    "pretrained_window_sizes": [0, 0, 0, 0],
    "transformers_version": "4.29.2",
}


def folder_with(path, config=PUBLISHED_CONFIG, old=False, change=lambda weights: weights):
    generator = torch.Generator().manual_seed(0)
    weights = change({name: torch.randn(shape, generator=generator) for name, shape in published().items()})
    (path / "config.json").write_text(json.dumps(config))
    if old:
        torch.save(weights, path / "pytorch_model.bin")
    else:
        save_file(weights, path / "model.safetensors")
    return weights


@pytest.mark.parametrize("old", [False, True])
def test_a_published_folder_is_read_and_written_as_it_was(tmp_path, old):
    table = "encoder.layers.0.blocks.0.attention.self.relative_coords_table"  # in the oldest files
    weights = folder_with(tmp_path, old=old, change=lambda w: w | ({table: torch.zeros(3)} if old else {}))
    network = ScOT.from_pretrained(tmp_path)
    weights.pop(table, None)
    assert not network.training
    assert network.config.channel_groups == (1,)
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(network.state_dict()[name], t) for name, t in weights.items())
    network.save_pretrained(tmp_path / "again" / "deep")
    written = load_file(tmp_path / "again" / "deep" / "model.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], t) for name, t in weights.items())
    config = json.loads((tmp_path / "again" / "deep" / "config.json").read_text())
    ours_alone = {"transformers_version", "pretrained_window_sizes"}
    assert {k: config[k] for k in PUBLISHED_CONFIG.keys() - ours_alone} == {
        k: v for k, v in PUBLISHED_CONFIG.items() if k not in ours_alone
    }
    again, x = ScOT.from_pretrained(str(tmp_path / "again" / "deep")), torch.randn(2, 2, 8, 8)
    assert again.config == network.config
    assert torch.equal(again(x, torch.ones(2)), network(x, torch.ones(2)))


def test_other_channels_begin_embedding_and_recovery_anew_and_nothing_else(tmp_path):
    weights = folder_with(tmp_path)
    with pytest.warns(UserWarning, match="in_channels is 3, 2 in the file.*embeddings.patch_embeddings begin anew"):
        network = ScOT.from_pretrained(tmp_path, in_channels=3, out_channels=1)
    new = {
        name for name, t in network.state_dict().items() if t.shape != weights[name].shape or not t.equal(weights[name])
    }
    assert new == {"embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias"}
    with pytest.warns(UserWarning, match="patch_recovery begin anew"):
        network = ScOT.from_pretrained(tmp_path, out_channels=2)
    new = {
        name for name, t in network.state_dict().items() if t.shape != weights[name].shape or not t.equal(weights[name])
    }
    assert new == {name for name in weights if name.startswith("patch_recovery")}
    assert network(torch.randn(1, 2, 8, 8), torch.ones(1)).shape == (1, 2, 8, 8)


def test_folders_that_hold_no_such_network_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        ScOT.from_pretrained(tmp_path)
    key = "residual_blocks.0.0.weight"
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        ScOT.from_pretrained(tmp_path)
    changes = {
        f"missing: {key}": lambda w: {name: t for name, t in w.items() if name != key},
        "unknown: extra.weight": lambda w: w | {"extra.weight": torch.ones(1)},
        f"another shape: {key}": lambda w: w | {key: torch.ones(5)},
    }
    for words, change in changes.items():
        folder_with(tmp_path, change=change)
        with pytest.raises(ValueError, match=words):
            ScOT.from_pretrained(tmp_path)
    for name, value in {"residual_model": "resnet", "hidden_act": "relu", "hidden_dropout_prob": 0.1}.items():
        folder_with(tmp_path, config={**PUBLISHED_CONFIG, name: value})
        with pytest.raises(ValueError, match=name):
            ScOT.from_pretrained(tmp_path)


def test_what_cannot_be_written_leaves_the_folder_as_it_was(tmp_path):
    network = ScOT(SMALL)
    network.save_pretrained(tmp_path)
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert held.keys() == {"config.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    with torch.device("meta"):
        wider = ScOT(ScOTConfig(**{**SMALL.__dict__, "embed_dim": 12}))
    with pytest.raises(NotImplementedError):
        wider.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_old_files_that_hold_more_than_tensors_are_refused_and_not_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    torch.save({"a": Harmful(tmp_path / "run")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        ScOT.from_pretrained(tmp_path)
    assert not (tmp_path / "run").exists()
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds no tensors"):
        ScOT.from_pretrained(tmp_path)


def test_a_file_without_counts_of_blocks_is_of_the_default_ones():
    assert ScOTConfig.from_official({}) == ScOTConfig()


def test_settings_of_ours_are_kept_in_the_file(tmp_path):
    network = small(resample=False, image_size=(16, 24), cln_init="identity", channel_groups=(1, 1), drop_path=0.1)
    network.float().save_pretrained(tmp_path)
    assert ScOT.from_pretrained(tmp_path).config == network.config


def test_a_block_is_that_of_transformers():
    swin = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
    config = swin.Swinv2Config(embed_dim=12, num_heads=[3], depths=[2], window_size=4)
    for shift in (0, 2):
        torch.manual_seed(0)
        theirs = swin.Swinv2Layer(config, 12, (8, 8), 3, shift_size=shift).double().eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        plain = ScOTConfig(**{**SMALL.__dict__, "time_conditioning": False})
        ours = Block(plain, 12, 3, shifted=bool(shift), drop_path=0.0).double().eval()
        ours.load_state_dict(theirs.state_dict())
        x = fields(2, 8, 8, 12)
        expected = theirs(x.flatten(1, 2), (8, 8))[0].view_as(x)
        assert (ours(x, None) - expected).abs().max() < 1e-6  # their places are in single precision
