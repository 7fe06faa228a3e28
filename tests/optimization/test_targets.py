"""Target surrogates: exact values, descent, schedules, state, linear models, and what they refuse."""

import copy
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paperworks.optimization import SSO, SSOClassifier, SSORegressor, TargetSurrogate, fit_linear_sso, target_lipschitz

pytestmark = pytest.mark.usefixtures("untyped")

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(3, (30,), generator=GENERATOR)
TARGETS = torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()


def classify(z):
    return F.cross_entropy(z, LABELS)


def regress(z):
    return (z - TARGETS).square().sum() / (2 * len(z))


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_one_inner_step_of_gradient_descent_is_gradient_descent():
    ours, theirs = network(), network()
    optimizer = SSO(ours.parameters(), eta=1.0, inner_steps=1, inner_optimizer=torch.optim.SGD, lr=0.3)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.3)
    for _ in range(3):
        optimizer.step(lambda: ours(X), classify)
        plain.zero_grad()
        classify(theirs(X)).backward()
        plain.step()
    assert torch.allclose(parameters(ours), parameters(theirs), rtol=1e-12)


@pytest.mark.parametrize(("loss", "name"), [(classify, "cross_entropy"), (regress, "squared")])
def test_the_loss_never_rises_up_to_one_over_the_smoothness(loss, name):
    model = network()
    optimizer = SSO(model.parameters(), eta=1 / target_lipschitz(name), inner_steps=10)
    seen = [float(optimizer.step(lambda: model(X), loss)) for _ in range(8)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(seen))
    assert seen[-1] < seen[0]
    assert optimizer.n_oracle_calls == 8
    assert 8 <= optimizer.n_inner_steps <= 80


def test_the_surrogate_touches_and_majorises():
    z = torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    value = classify(z)
    S = TargetSurrogate(z, torch.autograd.grad(value, z)[0], 2.0, loss=float(value))
    at = z.detach().requires_grad_()
    assert float(S(at)) == pytest.approx(float(value))
    assert torch.allclose(torch.autograd.grad(S(at), at)[0], torch.autograd.grad(classify(at), at)[0])
    for scale in (0.1, 1.0, 10.0):
        other = z.detach() + scale * torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64)
        assert float(S(other)) >= float(classify(other)) - 1e-10


def test_mirror_descent_ends_at_exponential_weights():
    p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    g = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    S = TargetSurrogate(p, g, 0.5, "kl")
    end = (p * torch.exp(-0.5 * g)).requires_grad_()
    assert torch.allclose(torch.autograd.grad(S(end), end)[0], torch.zeros(1, 3, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    "schedule", ["constant", "inv_sqrt", "exponential", "armijo", "adagrad_norm", "adagrad_diag", "adam", "newton"]
)
def test_each_schedule_descends_and_goes_on_from_its_state(schedule):
    def make():
        model = torch.nn.Linear(4, 3).double()
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model, SSO(model.parameters(), 0.5, 3, torch.optim.Adam, lr=0.05, eta_schedule=schedule, total_steps=10)

    (model, optimizer), (other, second) = make(), make()
    seen = [float(optimizer.step(lambda: model(X), classify)) for _ in range(4)]
    assert seen[-1] < seen[0]
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)
    second.load_state_dict(torch.load(stored, weights_only=True))
    other.load_state_dict(model.state_dict())
    optimizer.step(lambda: model(X), classify)
    second.step(lambda: other(X), classify)
    assert torch.equal(parameters(model), parameters(other))
    assert second.n_oracle_calls == optimizer.n_oracle_calls
    assert second.last_eta == optimizer.last_eta


def test_schedules_have_their_values():
    model = torch.nn.Linear(4, 3).double()
    expected = {"constant": 0.8, "inv_sqrt": 0.8 / math.sqrt(3), "exponential": 0.8 * 0.25 ** (2 / 4)}
    for schedule, eta in expected.items():
        optimizer = SSO(model.parameters(), 0.8, 1, eta_schedule=schedule, total_steps=4)
        for _ in range(3):
            optimizer.step(lambda: model(X), classify)
        assert optimizer.last_eta == pytest.approx(eta)


def test_accumulators_belong_to_samples():
    model = torch.nn.Linear(4, 3).double()
    optimizer = SSO(model.parameters(), 0.5, 1, eta_schedule="adagrad_diag")
    rows = torch.tensor([7, 2])
    optimizer.step(lambda: model(X[rows]), lambda z: F.cross_entropy(z, LABELS[rows]), data_idx=rows)
    squares = optimizer.state_dict()["targets"]["second"]
    assert squares.shape == (8, 3)
    assert set(squares.sum(1).nonzero()[:, 0].tolist()) == {2, 7}


def test_a_gradient_may_be_handed_in():
    first, second = network(), network()
    SSO(first.parameters(), 1.0, 5).step(lambda: first(X), regress)
    given = SSO(second.parameters(), 1.0, 5).step(lambda: second(X), loss_grad=lambda z: (z - TARGETS) / len(z))
    assert given is None
    assert torch.allclose(parameters(first), parameters(second))


def test_a_closure_alone_moves_the_parameters_themselves():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = SSO([p], eta=0.1, inner_steps=200)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure=closure)
    assert torch.allclose(p.detach(), torch.tensor([0.8, -1.6], dtype=torch.float64), atol=1e-5)


def test_models_that_are_not_the_same_within_a_step_warn():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3).double(), torch.nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="dropout"):
        SSO(model.parameters(), 1.0, 1).step(lambda: model(X), classify)


def test_outputs_that_change_their_shape_are_refused():
    model, sizes = torch.nn.Linear(4, 3).double(), iter([30, 30, 20])
    with pytest.raises(RuntimeError, match="outputs have shape"):
        SSO(model.parameters(), 1.0, 2).step(lambda: model(X[: next(sizes)]), classify)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.0}, "eta is 0"),
        ({"lr": -1.0}, "lr is -1"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"eta_schedule": "cosine"}, "eta_schedule is 'cosine'"),
        ({"divergence": "l1"}, "divergence is 'l1'"),
        ({"inner_optimizer": "newton"}, "inner_optimizer is 'newton'"),
        ({"atol": -1.0}, "atol is -1"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        SSO(torch.nn.Linear(2, 1).parameters(), **{"eta": 1.0, **options})


def test_other_bad_input_is_refused_by_name():
    model = torch.nn.Linear(4, 3).double()
    optimizer = SSO(model.parameters(), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        optimizer.step(lambda: model(X), loss_grad=torch.full((30, 3), math.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="g has shape"):
        optimizer.step(lambda: model(X), loss_grad=torch.zeros(30))
    with pytest.raises(TypeError, match="loss and loss_grad"):
        optimizer.step(lambda: model(X))
    with pytest.raises(TypeError, match="forward is missing"):
        optimizer.step(loss=classify)
    with pytest.raises(ValueError, match="targets"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters()).state_dict())
    with pytest.raises(ValueError, match="loss is 'poisson'"):
        target_lipschitz("poisson")
    with pytest.raises(ValueError, match="z_t has entries"):
        TargetSurrogate(-torch.ones(1), torch.ones(1), 1.0, "kl")


@pytest.mark.parametrize(("n", "d"), [(30, 4), (10, 20)])
def test_inner_steps_through_the_gram_matrix_are_those_on_the_weights(n, d):
    rng = np.random.default_rng(0)
    A, y = rng.normal(size=(n, d)), rng.normal(size=(n, 2))
    found = fit_linear_sso(A, y, "squared", eta=0.7, steps=2, inner="gd", inner_steps=3).weights
    W, step = np.zeros((d, 2)), 0.7 * n / np.linalg.norm(A, 2) ** 2
    for _ in range(2):
        z = A @ W
        g = z - y
        for _ in range(3):
            W = W - step * A.T @ (g + (A @ W - z) / 0.7) / n
    assert np.allclose(found, W)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (10, 20)])
def test_the_exact_inner_solution_is_the_limit_of_many_steps(n, d):
    rng = np.random.default_rng(1)
    A, y = rng.normal(size=(n, d)), np.sign(rng.normal(size=(n, 1)))
    exact = fit_linear_sso(A, y, "logistic", steps=2).weights
    many = fit_linear_sso(A, y, "logistic", steps=2, inner="gd", inner_steps=3000).weights
    assert np.allclose(exact, many, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "inv_sqrt", "exponential", "armijo"])
def test_batches_and_schedules_of_linear_models(schedule):
    rng = np.random.default_rng(2)
    A = rng.normal(size=(60, 3))
    y = np.eye(3)[(A @ rng.normal(size=(3, 3))).argmax(1)]
    found = fit_linear_sso(A, y, "cross_entropy", steps=30, batch_size=20, eta_schedule=schedule, random_state=0)
    assert ((A @ found.weights).argmax(1) == y.argmax(1)).mean() > 0.85
    assert (found.n_loss_calls > 0) == (schedule == "armijo")


def test_estimators_learn_in_parts():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(80, 3))
    y = A @ np.array([1.0, -1.0, 2.0]) + 0.5
    regressor = SSORegressor()
    for part in np.split(np.arange(80), 8):
        regressor.partial_fit(A[part], y[part])
    assert regressor.score(A, y) > 0.9
    classes = np.where(y > 0, "yes", "no")
    classifier = SSOClassifier().partial_fit(A[:40], classes[:40], classes=["no", "yes"]).partial_fit(A, classes)
    assert classifier.score(A, classes) > 0.9
    assert classifier.predict_proba(A).sum(1) == pytest.approx(np.ones(80))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "poisson"}, "loss is 'poisson'"),
        ({"eta": 0.0}, "eta is 0"),
        ({"inner": "lbfgs"}, "inner is 'lbfgs'"),
        ({"steps": 0}, "steps is 0"),
        ({"weights": np.zeros((1, 1))}, "weights has shape"),
        ({"y": np.zeros((3, 1))}, "X has shape"),
        ({"X": np.full((4, 2), np.inf)}, "not finite"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"before": -1}, "before is -1"),
        ({"loss": "logistic"}, "entries other than -1 and 1"),
        ({"loss": "cross_entropy"}, "no probabilities"),
    ],
)
def test_bad_input_of_linear_models_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        fit_linear_sso(**{"X": np.ones((4, 2)), "y": np.zeros((4, 1)), "loss": "squared", **options})


def test_the_expert_acts_in_a_share_of_the_steps():
    gymnasium = pytest.importorskip("gymnasium")
    from paperworks.papers.target_surrogates.imitation import TASKS, imitate, policy, rollout

    for task in TASKS.values():
        env, idle = gymnasium.make(task.name), policy(task, False, 0)
        still, moved = policy(task, True, 1), policy(task, True, 2)
        alone, mixed, cloned = (rollout(env, task, idle, 60, 0, share) for share in (0.0, 0.5, 1.0))
        assert np.array_equal(alone, rollout(env, task, idle, 60, 0))
        assert not np.array_equal(mixed, alone)
        assert not np.array_equal(mixed, cloned)
        assert np.array_equal(*(rollout(env, task, p, 60, 0, 1.0) for p in (still, moved)))
        states, after = cloned[:-1].astype(float), cloned[1:]
        env.reset(seed=0)
        for state, reached in zip(states, after, strict=True):
            told, _, ended, truncated, _ = env.step(task.action(float(task.expert(state[None])[0])))
            if ended or truncated:
                break
            assert np.allclose(told, reached)
        found = imitate(task, False, "SSO, cloned", 0.1, rounds=2, samples=30, seed=0)
        assert math.isfinite(found.excess)
        assert found != imitate(task, False, "SSO", 0.1, rounds=2, samples=30, seed=0)


@pytest.mark.parametrize("schedule", ["constant", "inv_sqrt", "exponential", "armijo"])
def test_parts_that_are_all_of_the_data_are_a_fit(schedule):
    rng = np.random.default_rng(4)
    A = rng.normal(size=(40, 3))
    y = A @ np.array([1.0, -1.0, 2.0])
    whole, parts = (SSORegressor(steps=6, eta_schedule=schedule, inner_steps=2) for _ in range(2))
    whole.fit(A, y)
    for _ in range(6):
        parts.partial_fit(A, y)
    assert np.allclose(parts.coef_, whole.coef_, rtol=1e-12)
    assert parts.n_oracle_calls_ == whole.n_oracle_calls_ == 6


def test_classes_are_those_of_the_first_part():
    A = np.eye(4)
    classifier = SSOClassifier().partial_fit(A, [0, 1, 0, 1], classes=[0, 1])
    with pytest.raises(ValueError, match="y has classes"):
        classifier.partial_fit(A, [0, 1, 2, 1])
    with pytest.raises(ValueError, match="classes is"):
        classifier.partial_fit(A, [0, 1, 0, 1], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes has 1 class"):
        SSOClassifier().partial_fit(A, [0, 0, 0, 0])


@pytest.mark.parametrize("inner", ["armijo", torch.optim.Adam])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_by_themselves(inner, copied):
    model = network()
    optimizer = SSO(model.parameters(), 0.5, 3, inner, lr=0.05, eta_schedule="adagrad_diag")
    optimizer.step(lambda: model(X), classify)
    other, second = copied((model, optimizer))
    second.step(lambda: other(X), classify)
    assert optimizer.n_oracle_calls == 1
    assert not torch.equal(parameters(model), parameters(other))
    optimizer.step(lambda: model(X), classify)
    assert torch.equal(parameters(model), parameters(other))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_line_search_that_fails_leaves_the_parameters(error):
    model, calls = network(), itertools.count()
    before = parameters(model)

    def forward():
        if next(calls) == 3:  # the second trial
            raise error
        return model(X)

    with pytest.raises(error):
        SSO(model.parameters(), 1.0, lr=1e4).step(forward, classify)
    assert torch.equal(parameters(model), before)


def test_samples_that_are_there_twice_count_twice():
    p = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = SSO([p], 0.5, 1, eta_schedule="adagrad_diag")
    optimizer.step(lambda: p * 1.0, loss_grad=torch.ones(2, 3), data_idx=torch.tensor([1, 1]))
    assert optimizer.state_dict()["targets"]["second"][1].tolist() == [8.0, 8.0, 8.0]  # of two gradients of 2


def test_odd_outputs():
    w = torch.nn.Parameter(torch.tensor(2.0))
    for schedule in ("adagrad_diag", "adam"):  # one sample of one number
        loss = SSO([w], 0.1, 5, eta_schedule=schedule).step(lambda: w * 1.0, lambda z: z**2 / 2)
        assert float(loss) > float(w.detach()) ** 2 / 2
    words = torch.nn.Embedding(7, 4, sparse=True)
    optimizer = SSO(words.parameters(), 1.0, 5)
    seen = [float(optimizer.step(lambda: words(torch.arange(7)), lambda z: z.square().sum() / 14)) for _ in range(3)]
    assert seen[2] < seen[1] < seen[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"forward": lambda m: None}, "forward returned NoneType"),
        ({"forward": lambda m: m(X).argmax(1)}, "forward returned a tensor of torch.int64"),
        ({"forward": lambda m: m(X).detach()}, "parameters that require a gradient"),
        ({"loss": lambda z: (z - TARGETS) ** 2}, r"loss returned a tensor of shape \(30, 3\)"),
        ({"loss": lambda z: 1.0}, "loss returned float"),
        ({"loss": lambda z: torch.ones(())}, "depends on the outputs"),
        ({"data_idx": torch.arange(30.0)}, "data_idx has torch.float32"),
        ({"data_idx": torch.arange(30) - 1}, "negative entries"),
        ({"forward": lambda m: m(X)[:, :2]}, r"outputs have \(2,\) entries a sample and had \(3,\)"),
    ],
)
def test_what_functions_return_is_checked(call, message):
    model = network()
    optimizer = SSO(model.parameters(), 1.0, eta_schedule="adagrad_diag")
    optimizer.step(lambda: model(X), classify)
    forward, loss = call.get("forward", lambda m: m(X)), call.get("loss", lambda z: z.square().mean())
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: forward(model), loss, data_idx=call.get("data_idx"))
    with pytest.raises(TypeError, match="loss_grad is ndarray"):
        optimizer.step(lambda: model(X), loss_grad=np.zeros((30, 3)))
