import pytest
import torch

from paperworks.diffusion import EDMSchedule, NoiseScheduleVP, to_noise, wrap_model

SCHEDULE = NoiseScheduleVP.linear()
DISCRETE = NoiseScheduleVP.discrete(betas=torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("levels", ["numbers", "per sample"])
def test_every_prediction_becomes_the_same_noise(pair, levels):
    x0, z = pair
    if levels == "numbers":
        alpha, sigma = SCHEDULE.alpha(0.4), SCHEDULE.sigma(0.4)
        a, s = alpha, sigma
    else:
        t = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        a, s = alpha[:, None, None], sigma[:, None, None]
    x = a * x0 + s * z
    outputs = {"noise": z, "x_start": x0, "v": a * z - s * x0, "score": -z / s}
    for kind, output in outputs.items():
        torch.testing.assert_close(to_noise(output, x, alpha, sigma, kind), z, msg=kind)


@pytest.mark.parametrize("kind", ["x_start", "v", "score"])
def test_wrapped_network_converts_at_its_time(pair, kind):
    x0, z = pair
    for t in (0.4, torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)):
        a, s = (torch.as_tensor(f(t)).reshape(-1, 1, 1) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        output = {"x_start": x0, "v": a * z - s * x0, "score": -z / s}[kind]
        model_fn = wrap_model(lambda x, t, output=output: output, SCHEDULE, kind)
        torch.testing.assert_close(model_fn(a * x0 + s * z, t), z)


@pytest.mark.parametrize(
    ("schedule", "t", "expected"),
    [(SCHEDULE, 0.25, 0.25), (DISCRETE, 1.0, 999.0), (DISCRETE, 0.0015, 0.5), (EDMSchedule(), 3.0, 3.0)],
)
def test_network_gets_the_time_it_was_trained_with(schedule, t, expected):
    seen = []
    model_fn = wrap_model(lambda x, time: seen.append(time) or x, schedule)
    for dtype, time_dtype in ((torch.float32,) * 2, (torch.float64,) * 2, (torch.float16, torch.float32)):
        model_fn(torch.zeros(3, 2, dtype=dtype), t)
        assert seen[-1].shape == (3,)
        assert seen[-1].dtype == time_dtype
        assert seen[-1].tolist() == pytest.approx([expected] * 3)
    model_fn(torch.zeros(3, 2), torch.full((3,), t, dtype=torch.float64))
    assert seen[-1].tolist() == pytest.approx([expected] * 3)
    rounding = wrap_model(lambda x, time: seen.append(time) or x, schedule, time_input=torch.Tensor.round)
    rounding(torch.zeros(3, 2), t)
    assert seen[-1].tolist() == [round(expected)] * 3


def test_classifier_free_guidance_is_one_batched_call():
    calls = []

    def network(x, t, condition):
        calls.append((x.shape, t.shape))
        return x + condition[:, None]

    x = torch.randn(2, 3)
    arguments = {"guidance": "classifier-free", "condition": torch.ones(2), "unconditional": torch.zeros(2)}
    guided = wrap_model(network, SCHEDULE, scale=3.0, **arguments)
    torch.testing.assert_close(guided(x, 0.5), x + 3.0)
    assert calls == [((4, 3), (4,))]
    assert guided.nfe == 1
    plain = wrap_model(network, SCHEDULE, scale=1.0, **arguments)
    torch.testing.assert_close(plain(x, 0.5), x + 1.0)
    assert calls[-1] == ((2, 3), (2,))
    per_sample = guided(x, torch.tensor([0.2, 0.5], dtype=torch.float64))
    torch.testing.assert_close(per_sample, x + 3.0)


def test_conditions_by_name():
    def network(x, t, *, text, mask):
        return x + text[:, None] * mask[:, None]

    condition = {"text": torch.ones(2), "mask": torch.ones(2)}
    unconditional = {"text": torch.zeros(2), "mask": torch.ones(2)}
    x = torch.zeros(2, 3)
    assert (wrap_model(network, SCHEDULE, condition=condition)(x, 0.5) == 1).all()
    guided = wrap_model(
        network, SCHEDULE, guidance="classifier-free", condition=condition, unconditional=unconditional, scale=2.0
    )
    assert (guided(x, 0.5) == 2).all()


@torch.no_grad()
def test_classifier_guidance_moves_along_the_gradient():
    def log_probability(x, t, condition):
        return -0.5 * ((x - condition[:, None]) ** 2).sum(1)

    x = torch.randn(2, 3, dtype=torch.float64)
    target = torch.tensor([1.0, -1.0], dtype=torch.float64)
    guided = wrap_model(
        lambda x, t: 0 * x,
        SCHEDULE,
        guidance="classifier",
        classifier=log_probability,
        condition=target,
        scale=2.0,
    )
    torch.testing.assert_close(guided(x, 0.3), -2.0 * SCHEDULE.sigma(0.3) * (target[:, None] - x))
    assert guided.nfe == 1


def test_outputs_of_networks():
    class Output:
        sample = torch.ones(2, 3)

    assert wrap_model(lambda x, t: Output(), SCHEDULE)(torch.zeros(2, 3), 0.5) is Output.sample
    learned_variance = wrap_model(lambda x, t: torch.cat([x, 0 * x], dim=1), SCHEDULE)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(learned_variance(x, 0.5), x)
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        wrap_model(lambda x, t: torch.zeros(2, 4), SCHEDULE)(torch.zeros(2, 3), 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type"),
        ({"guidance": "cfg"}, "guidance"),
        ({"guidance": "classifier"}, "classifier is None"),
        ({"guidance": "classifier-free"}, "unconditional"),
        ({"scale": float("nan")}, "scale"),
        (
            {"guidance": "classifier-free", "condition": torch.ones(1), "unconditional": {"y": torch.ones(1)}},
            "alike",
        ),
    ],
)
def test_bad_input(arguments, says, untyped):
    with pytest.raises(ValueError, match=says):
        wrap_model(lambda x, t: x, SCHEDULE, **arguments)
