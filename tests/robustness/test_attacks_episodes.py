import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paperworks.robustness import (
    ACG,
    FGSM,
    PGD,
    AdversaryEnv,
    AdversaryObservations,
    AdversaryTargets,
    Attacker,
    BatteryDispatchEnv,
    BifurcationLayer,
    CrossEntropyLoss,
    DivergenceLoss,
    DynamicDistortion,
    GroupDifferenceLogitsLoss,
    ObservationAttackWrapper,
    Policy,
    RandomSchedule,
    SquaredErrorLoss,
    ToggleSchedule,
    ValueThreshold,
    adversarial_training,
    charge,
    from_module,
    from_sb3,
    kpis,
    rollout,
    train_atla,
)


def series(hours=200, seed=0):
    rng = np.random.default_rng(seed)
    load, pv, carbon = rng.uniform(0.2, 2, (3, hours))
    return (
        load,
        pv * (np.arange(hours) % 24 > 8),
        rng.uniform(0.1, 0.5, (hours, 2)),
        carbon,
        rng.normal(size=(hours, 3)),
    )


def building(**options):
    return BatteryDispatchEnv(*series(), **options)


def tiny(seed=0, features=16, outputs=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, outputs))


# The building


def test_a_battery_by_hand():
    # sqrt(0.81) = 0.9 is lost each way.
    stored, energy = charge(np.array([0.0, 1.0, 5.9, 0.0]), np.array([0.5, -0.1, 1.0, -1.0]), 6.0, 4.0, 0.81)
    np.testing.assert_allclose(energy, [2.0, -0.4, 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(stored, [1.8, 1 - 0.4 / 0.9, 5.99, 0.0])


def test_it_is_citylearns_battery():
    model = pytest.importorskip("citylearn.energy_model")
    tracker = pytest.importorskip("citylearn.base").EpisodeTracker(0, 49)
    tracker.next_episode(50, False, False, 0)
    flat = {"power_efficiency_curve": [[0, 0.9], [1, 0.9]], "capacity_power_curve": [[0, 1], [1, 1]]}
    battery = model.Battery(6.4, 5.0, 0.0, loss_coefficient=0.0, episode_tracker=tracker, **flat)
    battery.reset()
    stored = np.zeros(1)
    for action in np.random.default_rng(0).uniform(-1, 1, 40):
        battery.next_time_step()  # the first hour has no charging before it
        battery.charge(5.0 * action)
        stored, energy = charge(stored, np.array([action]), 6.4, 5.0, 0.9)
        assert battery.soc[battery.time_step] * 6.4 == pytest.approx(stored[0], abs=1e-5)
        assert battery.energy_balance[battery.time_step] == pytest.approx(energy[0], abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.floats(0.5, 1), st.floats(0.5, 20))
def test_energy_is_not_made(seed, efficiency, power):
    rng = np.random.default_rng(seed)
    stored, drawn = np.full(8, 3.0), np.zeros(8)
    for _ in range(30):
        after, energy = charge(stored, rng.uniform(-1.5, 1.5, 8), 6.4, power, efficiency)
        assert ((after >= -1e-9) & (after <= 6.4 + 1e-9)).all()
        assert (np.abs(energy) <= power + 1e-9).all()
        stored, drawn = after, drawn + energy
    # What was drawn pays for what is stored, and for what was lost on the way.
    assert (drawn >= (stored - 3.0) - 3.0 - 1e-9).all()
    assert (drawn + 3.0 >= efficiency**0.5 * stored - 1e-9).all()


def test_batteries_of_tensors_have_gradients():
    action = torch.tensor([0.5, -0.1], requires_grad=True, dtype=torch.float64)
    stored, energy = charge(torch.tensor([1.0, 3.0]).double(), action, 6.4, 5.0, 0.81)
    numbers = charge(np.array([1.0, 3.0]), action.detach().numpy(), 6.4, 5.0, 0.81)
    np.testing.assert_allclose(stored.detach(), numbers[0])
    (gradient,) = torch.autograd.grad(energy.sum() + stored.sum(), action)
    np.testing.assert_allclose(gradient, [5 * 1.9, 5 * (1 + 1 / 0.9)])


def test_it_follows_the_protocol_of_gymnasium():
    from gymnasium.utils.env_checker import check_env

    for env in (building(horizon=20), building(horizon=20, bins=20)):
        check_env(env, skip_render_check=True)


def test_observations_are_in_their_box_and_tell_the_state():
    env = building(horizon=48)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=1, options={"start": 5})
    load, _, price, _, _ = series()
    total = 0.0
    for hour in range(5, 53):
        assert env.observation_space.contains(obs)
        assert obs[env.feature_names.index("load")] == pytest.approx((load[hour] - load.min()) / np.ptp(load), abs=1e-6)
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        assert reward == pytest.approx(-price[hour, 0] * max(info["consumption"], 0))
        assert truncated == (hour == 52)
        assert not terminated
        total += reward
    assert total < 0
    assert env.calendar_mask.sum() == len(obs) - 6
    assert not env.calendar_mask[env.feature_names.index("hour_sin")]


def test_a_batch_is_as_many_single_ones():
    starts = np.array([0, 30, 90])
    many, one = building(horizon=40, num_envs=3, bins=5), building(horizon=40, bins=5)
    actions = np.random.default_rng(0).integers(5, size=(40, 3))
    first = many.reset_batch(starts)
    steps = [many.step_batch(chosen) for chosen in actions]
    for row, start in enumerate(starts):
        obs, _ = one.reset(options={"start": int(start)})
        assert np.array_equal(obs, first[row])
        for chosen, (found, rewards, done, consumption) in zip(actions[:, row], steps, strict=True):
            obs, reward, _, over, info = one.step(chosen)
            assert np.array_equal(obs, found[row])
            assert (reward, over, info["consumption"]) == (rewards[row], done, consumption[row])


def test_starts_are_random_and_seeded():
    env = building(horizon=20)
    first = [env.reset(seed=0)[0] for _ in range(2)]
    assert np.array_equal(*first)
    assert not np.array_equal(first[0], env.reset()[0])


def test_indicators_by_hand():
    consumption = np.stack([np.tile([1.0, 3.0], 24), np.full(48, -1.0)])
    found = kpis(consumption, np.full(48, 0.5), np.arange(48.0))
    assert found["cost"].tolist() == [48, 0]
    assert found["energy"].tolist() == [96, 0]
    assert found["carbon"].tolist() == [(consumption[0] * np.arange(48)).sum(), 0]
    assert found["ramping"].tolist() == [94, 0]
    assert found["daily_peak"].tolist() == [3, -1]
    np.testing.assert_allclose(found["load_factor"], [1 - 2 / 3, 1.0])


# Policies


def test_the_policies_of_stable_baselines():
    sb3 = pytest.importorskip("stable_baselines3")
    space = gymnasium.make("Pendulum-v1")
    agents = {
        "PPO": sb3.PPO("MlpPolicy", space, n_steps=8, batch_size=8),
        "gSDE": sb3.PPO(
            "MlpPolicy", space, n_steps=8, batch_size=8, use_sde=True, policy_kwargs={"squash_output": True}
        ),
        "SAC": sb3.SAC("MlpPolicy", space),
        "TD3": sb3.TD3("MlpPolicy", space),
        "discrete PPO": sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8),
        "DQN": sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10),
    }
    for name, agent in agents.items():
        policy = from_sb3(agent)
        obs = np.random.default_rng(0).normal(size=(6, *agent.observation_space.shape)).astype(np.float32)
        expected, _ = agent.predict(obs, deterministic=True)
        np.testing.assert_allclose(policy.act(torch.from_numpy(obs)).numpy(), expected, rtol=1e-5, atol=1e-5)
        x = torch.from_numpy(obs).requires_grad_()
        assert torch.autograd.grad(policy(x).sum(), x)[0].abs().sum() > 0, name


def test_the_output_of_an_action():
    squashed = from_module(nn.Identity(), low=-1.0, high=3.0, squash=True)
    for action in (-0.5, 0.0, 2.9):
        output = torch.tensor([[squashed.output_of(action)]])
        assert squashed.act(output).item() == pytest.approx(action, abs=1e-6)
    clipped = from_module(nn.Identity(), low=torch.tensor([-1.0]), high=torch.tensor([1.0]))
    assert clipped.output_of(0.25) == 0.25
    assert clipped.act(torch.tensor([[3.0]])).item() == 1


# Schedules and episodes


def test_schedules():
    obs = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    assert [ToggleSchedule().choose(t, obs)[1][0].item() for t in range(4)] == [0, 1, 0, 1]
    assert [ToggleSchedule(3).choose(t, obs)[1][0].item() for t in range(4)] == [0, 1, 2, 0]
    random = RandomSchedule(0.3)
    first, second = (random.choose(t, obs)[0] for t in range(2))
    assert 0.25 < first.float().mean() < 0.35
    assert not torch.equal(first, second)
    assert torch.equal(ValueThreshold(lambda o: o[:, :1], 0.5).choose(0, obs)[0], obs[:, 0] >= 0.5)
    assert torch.equal(AdversaryTargets(nn.Identity()).choose(0, obs)[1], obs.argmax(1))


def test_an_attacked_episode():
    env = building(horizon=30, num_envs=4)
    network = tiny()
    seen = torch.from_numpy(env.table)
    policy = Policy(lambda obs: 9 * (network(obs) - network(seen).median()), -1.0, 1.0)
    starts = np.array([0, 40, 80, 120])
    mask = torch.from_numpy(env.calendar_mask)
    clean = rollout(env, policy, starts)
    attack = ACG(GroupDifferenceLogitsLoss(targeted=True), 0.4, steps=10, mask=mask)
    toggled = rollout(env, policy, starts, Attacker(BifurcationLayer(policy), attack, ToggleSchedule()))
    assert not clean.success.any()
    assert np.array_equal(clean.obs, clean.shown)
    assert np.abs(toggled.shown - toggled.obs).max() <= 0.4 + 1e-6
    assert np.array_equal(toggled.shown[..., ~env.calendar_mask], toggled.obs[..., ~env.calendar_mask])
    above = toggled.actions > 0
    wanted = np.arange(30) % 2 == 0
    assert np.array_equal(above == wanted, toggled.success)
    assert toggled.success.mean() > 0.6
    load, pv, _, _, _ = series()
    assert np.array_equal(toggled.hours[:, 0], starts)
    # What is drawn is what the executed actions draw.
    stored = np.zeros(4)
    for step in range(30):
        stored, energy = charge(stored, toggled.actions[:, step].astype(float), 6.4, 5.0, 0.9)
        hour = toggled.hours[:, step]
        np.testing.assert_allclose(toggled.consumption[:, step], load[hour] - pv[hour] + energy, atol=1e-6)


def test_what_is_not_chosen_is_shown_as_it_is():
    obs = torch.rand(50, 16, generator=torch.Generator().manual_seed(0))
    attack = PGD(GroupDifferenceLogitsLoss(), 0.2)
    policy = BifurcationLayer(tiny())
    shown, success = Attacker(policy, attack, ValueThreshold(lambda o: o[:, 0], 0.5)).perturb(0, obs)
    left = obs[:, 0] < 0.5
    assert torch.equal(shown[left], obs[left])
    assert not success[left].any()
    assert (shown[~left] != obs[~left]).any(1).all()
    nobody, _ = Attacker(policy, attack, RandomSchedule(0.0)).perturb(0, obs)
    assert torch.equal(nobody, obs)


def test_drift_is_from_the_true_observation_before():
    env = building(horizon=20)
    policy = tiny()
    attack = PGD(GroupDifferenceLogitsLoss(), 1.0, steps=5, drift=0.05)
    wrapped = ObservationAttackWrapper(env, BifurcationLayer(policy), attack)
    shown, _ = wrapped.reset(options={"start": 0})
    before = wrapped.true_observation
    assert np.abs(shown - before).max() <= 0.05 + 1e-6
    for _ in range(10):
        shown, *_ = wrapped.step(np.zeros(1))
        now = wrapped.true_observation
        assert (np.abs(shown - before) <= np.maximum(np.abs(now - before), 0.05) + 1e-6).all()
        before = now


def test_the_wrapper_is_the_rollout():
    env, policy = building(horizon=10), Policy(tiny(), -1.0, 1.0)
    attack = DynamicDistortion(PGD(GroupDifferenceLogitsLoss(), 1.0, steps=5), [0.1, 0.3])
    many = rollout(building(horizon=10, num_envs=1), policy, np.array([7]), Attacker(BifurcationLayer(policy), attack))
    wrapped = ObservationAttackWrapper(env, BifurcationLayer(policy), attack)
    shown, _ = wrapped.reset(options={"start": 7})
    for step in range(10):
        np.testing.assert_allclose(shown, many.shown[0, step], atol=1e-6)
        shown, reward, *_ = wrapped.step(policy.act(torch.from_numpy(shown)[None])[0].numpy())
        assert reward == pytest.approx(many.rewards[0, step])


# Training


def test_training_on_examples_makes_flips_rarer():
    # What decides is one feature, and seven others matter a little, which is all an attacker needs.
    obs = torch.rand(600, 8, generator=torch.Generator().manual_seed(0))
    attack = PGD(GroupDifferenceLogitsLoss(), 0.1, steps=10)
    for smooth in (False, True):
        policy = nn.Linear(8, 1)
        policy.weight.data = torch.tensor([[2.0, *[0.3] * 7]])
        policy.bias.data = -policy.weight.data.sum(1) / 2
        before, attacked = policy(obs).detach(), BifurcationLayer(policy)
        flips = attack(attacked, obs).success.float().mean()
        trained = adversarial_training(
            policy, obs, attack, attacked, discrete=False, smooth=smooth, steps=100, weight=3.0, lr=1e-2
        )
        assert trained is policy
        assert attack(attacked, obs).success.float().mean() < 0.8 * flips
        assert (policy(obs) - before).square().mean() < 0.3 * before.var()


def test_training_of_discrete_policies_starts_where_they_are():
    obs = torch.rand(100, 8)
    policy = tiny(0, 8, 6)
    before = policy(obs).detach()
    adversarial_training(policy, obs, FGSM(DivergenceLoss(), 0.1), steps=3, weight=0.0)
    torch.testing.assert_close(policy(obs).softmax(1), before.softmax(1), atol=0.01, rtol=0)


class Fixed:
    """An agent that always does the same."""

    def __init__(self, action):
        self.action, self.seen = np.asarray(action, dtype=np.float32), []

    def predict(self, obs, deterministic=True):
        self.seen.append(obs)
        return self.action, None


def test_an_adversary_is_paid_for_what_the_victim_loses_less_what_is_seen():
    mask = building().calendar_mask
    victim = Fixed([0.5])
    for mapping, moved in (("scaled", 0.05), ("sum", 0.5), ("around", 0.33)):
        env = AdversaryEnv(building(horizon=20), victim, mapping, mask, limit=1.0, k=2.0)
        obs, _ = env.reset(options={"start": 3})
        assert env.action_space.shape == (mask.sum(),)
        _, reward, _, _, info = env.step(np.full(mask.sum(), 0.5))
        shown = victim.seen[-1]
        expected = np.clip(obs + moved * mask, 0, 1)
        np.testing.assert_allclose(shown, expected, atol=1e-6)
        size = np.abs(shown - obs).max()
        assert reward == pytest.approx(-info["victim_reward"] * (1 - size) ** 2)
        assert reward > 0
    env = AdversaryEnv(building(horizon=20), victim, "replace", mask)
    obs, _ = env.reset(options={"start": 3})
    env.step(np.full(mask.sum(), 0.2))
    np.testing.assert_allclose(victim.seen[-1], np.where(mask, 0.6, obs), atol=1e-6)


def test_a_victim_sees_what_the_adversary_shows():
    mask = building().calendar_mask
    env = AdversaryObservations(building(horizon=20), Fixed(np.ones(mask.sum())), "scaled", mask, scale=0.07)
    plain, _ = building(horizon=20).reset(options={"start": 3})
    shown, _ = env.reset(options={"start": 3})
    np.testing.assert_allclose(shown, np.clip(plain + 0.07 * mask, 0, 1), atol=1e-6)


def test_training_in_turns():
    sb3 = pytest.importorskip("stable_baselines3")
    env = building(horizon=20)
    victim = sb3.PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0)
    before = [p.clone() for p in victim.policy.parameters()]
    _, adversary = train_atla(
        env, victim, rounds=2, adversary_steps=110, victim_steps=32, mask=env.calendar_mask, random_state=1
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, victim.policy.parameters(), strict=True))
    assert victim.num_timesteps == 64
    assert adversary.num_timesteps == 220
    assert isinstance(victim.get_env().envs[0].unwrapped, BatteryDispatchEnv)


# Bad input


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BatteryDispatchEnv(*series()[:3], np.ones(5), series()[4]), "carbon has 5 hours"),
        (lambda: BatteryDispatchEnv(series()[0] * np.nan, *series()[1:]), "load has 200 hours or isn't finite"),
        (lambda: building(capacity=0), "capacity is 0"),
        (lambda: building(power=-1), "power is -1"),
        (lambda: building(efficiency=1.1), "efficiency is 1.1"),
        (lambda: building(num_envs=0), "num_envs is 0"),
        (lambda: building(bins=1), "bins is 1"),
        (lambda: building(horizon=200), "horizon is 200"),
        (lambda: building(num_envs=2).reset_batch(np.array([0])), "starts is"),
        (lambda: building(horizon=20).reset_batch(np.array([180])), "starts is"),
        (lambda: kpis(np.ones(23), np.ones(23), np.ones(23)), "consumption has 23 hours"),
        (lambda: from_module(nn.Identity()).output_of(0), "without one continuous action"),
        (lambda: from_module(nn.Identity(), -1.0, 1.0).output_of(2), "action is 2"),
        (lambda: from_sb3(SimpleAgent()), "model is a SimpleAgent"),
        (lambda: RandomSchedule(2), "fraction is 2"),
        (lambda: ToggleSchedule(1), "groups is 1"),
        (lambda: Attacker(tiny(), PGD(CrossEntropyLoss(), 0.1), ToggleSchedule()), "schedule is targeted"),
        (lambda: Attacker(tiny(), PGD(CrossEntropyLoss(True), 0.1)), "schedule is not targeted"),
        (lambda: adversarial_training(tiny(), torch.rand(4, 16), PGD(SquaredErrorLoss(), 0.1), steps=0), "steps is 0"),
        (lambda: adversarial_training(tiny(), torch.rand(4, 16), PGD(SquaredErrorLoss(), 0.1), weight=-1), "weight is"),
        (lambda: AdversaryEnv(building(), Fixed([0]), "swap"), "mapping is 'swap'"),
        (lambda: AdversaryEnv(building(), Fixed([0]), mask=np.ones(3)), "mask has shape"),
        (lambda: AdversaryEnv(gymnasium.make("FrozenLake-v1"), Fixed([0])), "env has observations"),
        (lambda: AdversaryEnv(gymnasium.make("CartPole-v1"), Fixed([0]), "replace"), "mapping is 'replace'"),
        (lambda: AdversaryEnv(building(), Fixed([0]), limit=0), "limit is 0"),
        (lambda: train_atla(building(), Fixed([0]), rounds=0), "rounds is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class SimpleAgent:
    action_space = gymnasium.spaces.Discrete(2)

    class policy:
        @staticmethod
        def set_training_mode(mode):
            pass
