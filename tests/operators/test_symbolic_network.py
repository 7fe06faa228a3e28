"""The network: what its parts see, that decoding is the training's forward pass, its loss, and what is refused."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch

from paperworks.operators import (
    FAMILIES,
    PROSE,
    PROSEConfig,
    PROSEOutput,
    PROSETargets,
    SymbolicTokenizer,
    guess_of,
    guesses,
    identify,
    prose_loss,
    warmup_inverse_sqrt,
)
from paperworks.operators.symbolic import decoding

SMALL = PROSEConfig(SymbolicTokenizer(max_dim=3), 16, 2, 2, 1, 1, 2, 2, 2)
TIMES = torch.linspace(2, 6, 7, dtype=torch.float64)
SYSTEMS = [FAMILIES["thomas"].system(), FAMILIES["sprott_b"].system()]


def network(**options):
    torch.manual_seed(0)
    found = PROSE(dataclasses.replace(SMALL, **options)).double().eval()
    for p in found.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return found


def measurements(n=2, length=8):
    u = torch.randn(n, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.linspace(0, 2, length).double().expand(n, -1)[..., None], u], 2)


def inputs(model, n=2):
    return (measurements(n), None, *guesses(model, [SMALL.tokenizer.skeleton(s) for s in SYSTEMS[:n]]))


@pytest.mark.parametrize("options", [{}, {"adapter": 2}, {"split_fused": False}, {"modes": "2to1"}, {"modes": "1to1"}])
def test_times_are_answered_by_themselves(options):
    model = network(**options)
    together = model.predict(*inputs(model), TIMES)
    for order in ([3], [6, 0], [5, 3, 1]):
        assert (model.predict(*inputs(model), TIMES[order]) - together[:, order]).abs().max() < 1e-13


def test_queries_that_see_one_another_are_a_variant():
    model = network(operator_self_attention=True)
    together = model.predict(*inputs(model), TIMES)
    assert (model.predict(*inputs(model), TIMES[:3]) - together[:, :3]).abs().max() > 1e-6


@pytest.mark.parametrize("options", [{}, {"split_fused": False}])
def test_padding_changes_nothing(options):
    model = network(**options)
    data, _, symbols, mask = inputs(model)
    targets, _ = SMALL.tokenizer.batch([SMALL.tokenizer.encode(s) for s in SYSTEMS], ends=True)
    alone = [model(data[i : i + 1], None, symbols[i : i + 1, : mask[i].sum()], None, TIMES) for i in range(2)]
    together = model(data, None, symbols, mask, TIMES, targets)
    assert (torch.cat([a.values for a in alone]) - together.values).abs().max() < 1e-13
    # Measurements that are masked don't count, whatever they are.
    longer = torch.cat([data, 1e3 * torch.ones(2, 3, 4, dtype=torch.float64)], 1)
    seen = torch.arange(11).expand(2, -1) < 8
    padded = model(longer, seen, symbols, mask, TIMES, targets)
    assert (padded.values - together.values).abs().max() < 1e-12
    assert (padded.logits - together.logits).abs().max() < 1e-11
    # Components that a system lacks are zero inside.
    assert model(data[..., :3], None, symbols, mask, TIMES).values.shape == (2, 7, 2)


def test_decoding_is_the_forward_pass_step_by_step():
    model = network()
    given = inputs(model)
    targets, _ = SMALL.tokenizer.batch([SMALL.tokenizer.encode(s) for s in SYSTEMS], ends=True)
    whole = model(*given, TIMES, targets).logits
    memory = model.encode(*given)
    writer = decoding.Writer(model, memory.symbols, memory.symbol_mask)
    for place in range(targets.shape[1]):
        with torch.no_grad():
            assert (writer.step(targets[:, place]) - whole[:, place]).abs().max() < 1e-11
    # A token sees none of those behind it.
    changed = targets.clone()
    changed[:, 5:] = 7
    assert (model(*given, TIMES, changed).logits[:, :5] - whole[:, :5]).abs().max() < 1e-13


def test_greedy_tokens_are_the_likeliest_of_the_whole_pass():
    model = network()
    given = inputs(model)
    for row, tokens in enumerate(model.decode_symbols(*given, max_len=6)):
        ids, _ = SMALL.tokenizer.batch([tokens], ends=True)
        one = tuple(None if x is None else x[row : row + 1] for x in given)
        likeliest = model(*one, TIMES, ids[:, : len(tokens)]).logits.argmax(-1)
        assert SMALL.tokenizer.tokens(likeliest[0]) == tokens


def test_beams_of_one_are_greedy_and_edges_are_no_errors():
    model = network()
    given = inputs(model)
    memory = model.encode(*given)
    one = decoding.beam_search(decoding.Writer(model, memory.symbols, memory.symbol_mask), 20, 1)
    assert one == model.decode_symbols(*given, max_len=20)
    assert model.decode_symbols(*given, max_len=3, temperature=1e-300) == model.decode_symbols(*given, max_len=3)
    nobody = tuple(None if x is None else x[:0] for x in given)
    assert model.decode_symbols(*nobody) == model.decode_symbols(*nobody, beam=2) == []
    there = tuple(None if x is None else x.to("meta") for x in given)
    assert network().to("meta")(*there, TIMES.to("meta"), there[2]).logits.shape == (*there[2].shape, 1061)


def score(model, given, tokens, row):
    ids, _ = SMALL.tokenizer.batch([tokens], ends=True)
    one = tuple(None if x is None else x[row : row + 1] for x in given)
    log = model(*one, TIMES, ids[:, :-1]).logits.log_softmax(-1)[0]
    return log[torch.arange(len(tokens)), ids[0, 1:-1]].mean().item()


def test_a_wide_beam_is_at_least_as_good_as_greedy_and_draws_repeat():
    model = network()
    given = inputs(model)
    greedy = model.decode_symbols(*given, max_len=4)
    wide = model.decode_symbols(*given, max_len=4, beam=30)
    for row in range(2):
        if len(greedy[row]) == len(wide[row]) == 4:  # neither ended
            assert score(model, given, wide[row], row) >= score(model, given, greedy[row], row) - 1e-9
    draws = [
        model.decode_symbols(*given, max_len=8, temperature=2.0, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    cold = model.decode_symbols(*given, max_len=4, temperature=1e-6, generator=torch.Generator().manual_seed(0))
    assert cold == greedy


def test_every_parameter_learns_and_the_state_makes_it_again():
    for options in ({}, {"modes": "2to1"}, {"modes": "1to1"}, {"adapter": 1, "operator_self_attention": True}):
        model = network(**options)
        given = inputs(model)
        targets = None
        if model.config.modes == "2to2":
            targets, _ = SMALL.tokenizer.batch([SMALL.tokenizer.encode(s) for s in SYSTEMS], ends=True)
        output = model(*given, TIMES, targets)
        loss = output.values.square().sum() + (0 if targets is None else output.logits.logsumexp(-1).sum())
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
        again = pickle.loads(pickle.dumps(model))
        assert torch.equal(again(*given, TIMES).values, model(*given, TIMES).values)


def test_the_paper_size_has_about_its_parameters():
    with torch.device("meta"):
        model = PROSE(PROSEConfig())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(100, rel=0.3)


def test_smooth_numbers_are_alike_beside_each_other():
    torch.manual_seed(0)
    names = SMALL.tokenizer.vocabulary
    first = names.index("N000")
    for smooth, alike in ((True, 0.9), (False, 0.0)):
        weight = PROSE(dataclasses.replace(SMALL, width=64, smooth_numbers=smooth)).embed_target.weight
        rows = torch.nn.functional.normalize(weight[first : first + 1000], dim=1)
        beside = (rows[1:] * rows[:-1]).sum(1).mean().item()
        assert beside == pytest.approx(alike, abs=0.1)
        assert rows.shape == (1000, 64)


# Training ---------------------------------------------------------------------------------------------------


def test_the_loss_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    values, truth = torch.randn(2, 2, 5, 3, generator=generator)
    logits = torch.randn(2, 4, 11, generator=generator)
    symbols = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    alone = torch.tensor([[True, True, True], [True, True, False]])
    found = prose_loss(PROSEOutput(values, logits), PROSETargets(truth, symbols, mask, alone), 6.0)
    relative = [
        float(((a - b) ** 2).sum() / ((b**2).sum() + 1e-5))
        for a, b in ((values[0], truth[0]), (values[1, :, :2], truth[1, :, :2]))
    ]
    log = logits.log_softmax(-1)
    entropy = -np.mean([log[i, j, symbols[i, j]].item() for i in range(2) for j in range(4) if mask[i, j]])
    assert found.item() == pytest.approx(6 * np.mean(relative) + entropy, rel=1e-5)
    assert prose_loss(PROSEOutput(values, None), PROSETargets(truth)).item() == pytest.approx(
        6 * float(((values - truth).square().sum((1, 2)) / (truth.square().sum((1, 2)) + 1e-5)).mean()), rel=1e-5
    )


def test_the_rate_rises_to_one_and_falls_as_a_root():
    rates = [warmup_inverse_sqrt(step, 50) for step in range(1000)]
    assert rates[0] == 1e-3
    assert max(rates) == rates[50] == 1
    assert rates[800] == pytest.approx(math.sqrt(50 / 800))


@pytest.mark.usefixtures("untyped")
def test_guesses_of_each_kind():
    true = FAMILIES["thomas"].system()
    noisy = guess_of(true, 0, "noisy")
    assert noisy.skeleton() == true.skeleton()
    assert 0 < np.abs(np.divide(noisy.numbers(), true.numbers()) - 1).max() < 0.25
    pool = [family.system() for family in FAMILIES.values()]
    for seed in range(8):
        wrong = guess_of(true, seed, "wrong_family", others=pool)
        assert wrong.dimension == 3
        assert wrong != true.skeleton()
    with pytest.raises(ValueError, match="others has no system"):
        guess_of(true, 0, "wrong_family", others=[true])
    with pytest.raises(ValueError, match="mode is"):
        guess_of(true, 0, "right")


def test_a_network_learns_one_system_by_heart():
    torch.manual_seed(0)
    model = PROSE(dataclasses.replace(SMALL, width=32, smooth_numbers=True))
    given = (measurements().float(), None, *guesses(model, [SMALL.tokenizer.skeleton(s) for s in SYSTEMS]))
    wanted, mask = SMALL.tokenizer.batch([SMALL.tokenizer.encode(s) for s in SYSTEMS], ends=True)
    times = TIMES.float()
    truth = torch.stack([torch.sin(times), torch.cos(times), times / 6], 1).expand(2, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = prose_loss(model(*given, times, wanted[:, :-1]), PROSETargets(truth, wanted[:, 1:], mask[:, 1:]))
        loss.backward()
        optimizer.step()
    written = model.decode_symbols(*given)
    assert [SMALL.tokenizer.decode(tokens) for tokens in written] == SYSTEMS
    assert (model.predict(*given, times) - truth).norm() / truth.norm() < 0.2


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untyped")
def test_bad_inputs_are_refused():
    model = network()
    data, _, symbols, mask = inputs(model)
    for bad, words in (
        ((data[..., :1], None, symbols, mask), "data has shape"),
        ((torch.cat([data, data], 2), None, symbols, mask), "data has shape"),
        ((data, mask, symbols, mask), "data_mask has shape"),
        ((data, None, None, None), "symbols is missing"),
        ((data, None, symbols[:1], mask[:1]), "symbols has shape"),
        ((data, None, symbols, mask[:, :3]), "symbol_mask has shape"),
        ((data, None, symbols + 5000, mask), "symbols has numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            model(*bad, TIMES)
    for bad, error, words in (
        ((data.float(), None, symbols, mask), TypeError, "data is torch.float32"),
        ((data * math.nan, None, symbols, mask), ValueError, "data has"),
        ((data, torch.ones(2, 8), symbols, mask), TypeError, "data_mask is"),
        ((data, torch.zeros(2, 8, dtype=torch.bool), symbols, mask), ValueError, "data_mask has a row"),
        ((data, None, symbols, mask.double()), TypeError, "symbol_mask is"),
        ((data, None, symbols, mask & False), ValueError, "symbol_mask has a row"),
        ((data, None, symbols.double(), mask), TypeError, "symbols is"),
    ):
        with pytest.raises(error, match=words):
            model(*bad, TIMES)
    for targets in (symbols[:1], symbols[0]):
        with pytest.raises(ValueError, match="target_symbols has shape"):
            model(data, None, symbols, mask, TIMES, targets)
    with pytest.raises(ValueError, match="system has placeholders"):
        guess_of(SYSTEMS[0].skeleton(), 0, "noisy")
    with pytest.raises(ValueError, match="start is"):
        warmup_inverse_sqrt(0, 10, math.nan)
    with pytest.raises(ValueError, match="query_times has shape"):
        model(data, None, symbols, mask, TIMES[None])
    with pytest.raises(ValueError, match="symbols is given"):
        network(modes="1to1")(data, None, symbols, mask, TIMES)
    with pytest.raises(ValueError, match="writes no symbols"):
        network(modes="2to1").decode_symbols(data, None, symbols, mask)
    with pytest.raises(ValueError, match="target_symbols is given"):
        network(modes="2to1")(data, None, symbols, mask, TIMES, symbols)
    with pytest.raises(ValueError, match="temperature is 1"):
        model.decode_symbols(data, None, symbols, mask, beam=2, temperature=1)
    for options in ({"width": 15}, {"modes": "1to2"}, {"heads": 0}):
        with pytest.raises(ValueError, match="it takes"):
            dataclasses.replace(SMALL, **options)
    with pytest.raises(ValueError, match="output has values"):
        prose_loss(PROSEOutput(torch.ones(1, 2, 3), None), PROSETargets(torch.ones(1, 2, 2)))
    with pytest.raises(ValueError, match="targets takes symbols"):
        prose_loss(PROSEOutput(torch.ones(1, 2, 3), torch.ones(1, 2, 3)), PROSETargets(torch.ones(1, 2, 3)))


@pytest.mark.usefixtures("untyped")
def test_identification_keeps_the_mode_and_refuses_what_is_no_series():
    model, t = network().train(), np.linspace(0, 2, 8)
    u, guess = np.ones((8, 3)), SYSTEMS[0].skeleton()
    found = identify(model, t, u, guess, query_times=np.array([3.0, 4.0]), beam=2)
    assert model.training
    assert found.forecast.shape == (2, 3)
    assert found.system == SMALL.tokenizer.decode(found.tokens)
    for bad, words in (
        ((t[::-1], u, guess), "t doesn't rise"),
        ((np.zeros(8), u, guess), "t doesn't rise"),
        ((t, u[:5], guess), "u has shape"),
        ((t, np.full((8, 3), np.nan), guess), "u has shape"),
        ((t, u[:, :2], guess), "guess has 3"),
        ((np.append(t[:-1], np.inf), u, guess), "t doesn't rise"),
        ((t, np.ma.masked_equal(u, 1), guess), "u has shape"),
        ((t, u, guess, [3.0, np.nan]), "query_times has"),
        ((t, u, guess, 3.0), "query_times has"),
        ((t, 1e300 * u, guess), "u reaches"),
    ):
        with pytest.raises(ValueError, match=words):
            identify(model, *bad)
    for bad, words in (((t, 1j * u, guess), "u is complex"), ((t, u, guess.to_sympy()), "guess is list")):
        with pytest.raises(TypeError, match=words):
            identify(model, *bad)
