"""Tests of the projection of gradients and of the optimiser that wraps others."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import StepLR

from paperworks.numerics import mlp, seeded
from paperworks.testbeds.garments import SmallResNet
from paperworks.training import OrthoGrad, nlm_alignment, orthogonalize_gradients_

SHAPES = [(3, 4), (3, 4), (7,), (5, 2, 2), (100, 120), (1,), (2, 1)]
MODES = pytest.mark.parametrize("foreach", [False, True], ids=["blocks", "foreach"])


def parameters(shapes=SHAPES, dtype=torch.float64, along=0.7, scale=1.0):
    """Parameters whose gradients have a part along them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        p = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        p.grad = (scale * (torch.randn(shape, generator=generator, dtype=torch.float64) - along * p.detach())).to(dtype)
        found.append(p)
    return found


def projected(w, g, rescale=True):
    """The projection of one vector, in double precision."""
    w, x = w.detach().double().flatten(), g.double().flatten()
    out = x - (w @ x) / (w @ w) * w
    return (out * (x.norm() / out.norm() if rescale else 1)).view(g.shape)


def grads(params):
    return [p.grad.clone() for p in params]


@MODES
@pytest.mark.parametrize("rescale", [True, False])
def test_each_tensor_is_orthogonal_to_its_weights_and_keeps_its_norm(foreach, rescale):
    params = parameters()
    before = grads(params)
    orthogonalize_gradients_(params, rescale=rescale, foreach=foreach)
    for p, g in zip(params, before, strict=True):
        expected = projected(p, g, rescale) if p.numel() > 1 else g  # one element has no other direction
        torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)


@MODES
def test_all_together_are_one_vector(foreach):
    params = parameters()
    before, weights = torch.cat([g.flatten() for g in grads(params)]), torch.cat([p.flatten() for p in params])
    orthogonalize_gradients_(params, granularity="global", foreach=foreach)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in params]), projected(weights, before))
    lone = parameters([(3, 4)])
    expected = projected(lone[0], lone[0].grad)
    orthogonalize_gradients_(lone, granularity="global", foreach=foreach)
    torch.testing.assert_close(lone[0].grad, expected)


@MODES
def test_each_row_is_a_vector_and_biases_stay(foreach):
    params = parameters()
    before = grads(params)
    orthogonalize_gradients_(params, granularity="row", foreach=foreach)
    for p, g in zip(params, before, strict=True):
        rows = p.ndim > 1 and p[0].numel() > 1
        expected = torch.stack([projected(w, x) for w, x in zip(p, g, strict=True)]) if rows else g
        torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)


@MODES
@pytest.mark.parametrize("granularity", ["tensor", "global"])
def test_one_axis_can_be_left_out(foreach, granularity):
    params = parameters([(3, 4), (7,)])
    before = grads(params)
    orthogonalize_gradients_(params, exclude_1d=True, granularity=granularity, foreach=foreach)
    assert torch.equal(params[1].grad, before[1])
    torch.testing.assert_close(params[0].grad, projected(params[0], before[0]))


@MODES
def test_zeros_stay_and_what_is_along_the_weights_becomes_0(foreach):
    zero, along, empty, none = (
        nn.Parameter(t) for t in (torch.zeros(4), torch.arange(1.0, 30), torch.ones(0), torch.ones(3))
    )
    zero.grad, along.grad, empty.grad = torch.arange(4.0), -2.3 * along.detach(), torch.ones(0)
    still = nn.Parameter(torch.ones(3))
    still.grad = torch.zeros(3)
    orthogonalize_gradients_([zero, along, empty, none, still], foreach=foreach)
    assert zero.grad.tolist() == [0, 1, 2, 3]
    assert not along.grad.any()
    assert none.grad is None
    assert still.grad.tolist() == [0, 0, 0]


@MODES
@pytest.mark.parametrize("granularity", ["tensor", "global", "row"])
@pytest.mark.parametrize("size", [1e-43, 1e-39, 1e-22])
def test_gradients_of_weights_that_decayed_to_nearly_0_stay(foreach, granularity, size):
    p = nn.Parameter(torch.full((3, 4), size))
    p.grad = torch.arange(1.0, 13).view(3, 4)
    before = p.grad.clone()
    orthogonalize_gradients_(p, granularity=granularity, foreach=foreach)
    torch.testing.assert_close(p.grad, before)


@MODES
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e25])
def test_in_single_precision_tensors_are_orthogonal_to_a_millionth(foreach, scale):
    params = parameters([(200, 226), (200, 200), (30, 20), (20, 30)], torch.float32, along=2.0, scale=scale)
    sizes = [g.double().norm() for g in grads(params)]
    orthogonalize_gradients_(params, foreach=foreach, eps=0)
    cosines = nlm_alignment(params, per_tensor=True)
    assert max(abs(c) for c in cosines.values()) < 1e-6
    for p, size in zip(params, sizes, strict=True):
        assert p.grad.double().norm().item() == pytest.approx(size.item(), rel=1e-5)


@MODES
def test_nearly_parallel_gradients_keep_their_direction(foreach):
    (p,) = parameters([(50,)], torch.float32)
    across = torch.randn(50, generator=torch.Generator().manual_seed(3))
    across -= (across @ p.detach()) / (p.detach() @ p.detach()) * p.detach()
    p.grad = p.detach() + 1e-4 * across
    expected = projected(p, p.grad)
    orthogonalize_gradients_(p, foreach=foreach)
    assert functional.cosine_similarity(p.grad.double(), expected, dim=0) > 1 - 1e-5
    torch.testing.assert_close(p.grad.double().norm(), expected.norm(), rtol=1e-4, atol=0)


@MODES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(foreach, dtype):
    params = parameters([(40, 50), (300, 400)], dtype)
    expected = [projected(p, p.grad) for p in params]
    orthogonalize_gradients_(params, foreach=foreach)
    for p, e in zip(params, expected, strict=True):
        assert p.grad.dtype == dtype
        assert (p.grad.double() - e).norm() <= torch.finfo(dtype).eps * e.norm()


def test_memory_layouts_do_not_matter():
    p = nn.Parameter(torch.randn(64, 64, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last))
    p.grad = (torch.randn(64, 64, 3, 3).double() - p.detach()).to(memory_format=torch.channels_last)
    expected = projected(p, p.grad)
    orthogonalize_gradients_(p)
    torch.testing.assert_close(p.grad, expected)
    assert p.grad.is_contiguous(memory_format=torch.channels_last)


def test_squared_norms_grow_as_pythagoras_says():
    params = parameters([(6, 5), (110, 90)])
    optimizer = OrthoGrad(torch.optim.SGD(params, lr=0.1))
    for _ in range(3):
        expected = [p.detach().square().sum() + 0.01 * p.grad.square().sum() for p in params]
        optimizer.step()
        for p, e in zip(params, expected, strict=True):
            assert p.square().sum().item() == pytest.approx(e.item(), rel=1e-12)


def test_a_step_is_that_of_the_base_with_projected_gradients():
    ours, theirs = parameters(), parameters()
    wrapped = OrthoGrad(torch.optim.AdamW(ours, 0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2))
    bare = torch.optim.AdamW(theirs, 0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    for _ in range(3):
        before = grads(ours)
        wrapped.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, before, strict=True))  # left alone
        for p, g in zip(theirs, before, strict=True):
            p.grad = g
        orthogonalize_gradients_(theirs)
        bare.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


def test_the_gradients_of_a_closure_are_projected_and_it_is_called_once():
    (p,), calls = parameters([(4, 5)]), []
    optimizer = OrthoGrad(torch.optim.SGD([p], lr=0.1))
    p.grad = None
    target = torch.ones(4, 5, dtype=torch.float64)

    def closure():
        optimizer.zero_grad()
        loss = (p - target).square().sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    start = p.detach().clone()
    assert optimizer.step(closure).item() == calls[0]
    torch.testing.assert_close(p.detach(), start - 0.1 * projected(start, 2 * (start - target)))
    assert len(calls) == 1


@pytest.mark.parametrize("of_base", [True, False])
def test_schedulers_of_either_work_and_hooks_run(of_base):
    (p,), seen = parameters([(4, 5)]), []
    base = torch.optim.SGD([p], lr=1.0)
    optimizer = OrthoGrad(base)
    schedule = StepLR(base if of_base else optimizer, 1, gamma=0.5)
    optimizer.register_step_post_hook(lambda *_: seen.append("wrapper"))
    base.register_step_pre_hook(lambda *_: seen.append("base"))
    optimizer.step()
    schedule.step()
    assert base.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.5
    assert seen == ["base", "wrapper"]


def test_checkpoints_fit_the_wrapper_and_the_base():
    params = parameters([(4, 5)])
    optimizer = OrthoGrad(params, torch.optim.AdamW, lr=0.1)
    optimizer.step()
    other = torch.optim.AdamW(parameters([(4, 5)]), lr=0.3)
    other.load_state_dict(optimizer.state_dict())
    back = OrthoGrad(torch.optim.AdamW(parameters([(4, 5)]), lr=0.4))
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    assert back.param_groups[0]["lr"] == 0.1
    assert back.param_groups is back.base_optimizer.param_groups
    assert back.state is back.base_optimizer.state
    back.param_groups[0]["lr"] = 0.7
    assert back.base_optimizer.param_groups[0]["lr"] == 0.7


def test_hooks_of_checkpoints_are_shared():
    seen = []
    optimizer = OrthoGrad(torch.optim.AdamW(parameters([(4, 5)]), lr=0.1))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("saved"))
    optimizer.state_dict()
    assert seen == ["saved"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_copies_go_on_by_themselves(copied):
    params = parameters([(4, 5), (2, 3)])
    optimizer = OrthoGrad(torch.optim.AdamW(params, lr=0.1), granularity="row", rescale=False)
    optimizer.step()
    twin = copied(optimizer)
    theirs = twin.param_groups[0]["params"]
    assert twin.projection == optimizer.projection
    for p, q in zip(params, theirs, strict=True):
        q.grad = p.grad.clone()
    twin.step()
    before = [p.detach().clone() for p in params]
    optimizer.step()
    for p, q, b in zip(params, theirs, before, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, b)


def test_it_wraps_optimisers_that_wrap_others_and_have_no_hooks_of_checkpoints():
    packages = pytest.importorskip("pytorch_optimizer")
    ours, theirs = parameters([(4, 5), (6,)]), parameters([(4, 5), (6,)])
    wrapped = OrthoGrad(packages.Lookahead(torch.optim.SGD(ours, lr=0.1), k=2))
    bare = packages.Lookahead(torch.optim.SGD(theirs, lr=0.1), k=2)
    orthogonalize_gradients_(theirs)
    wrapped.step()
    bare.step()
    bare.load_state_dict(wrapped.state_dict())
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


def test_an_optimiser_that_misses_its_closure_says_who_kept_it():
    class Picky(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("a closure is required")

    (p,) = parameters([(4, 5)])
    before = p.grad.clone()
    with pytest.raises(RuntimeError, match="a closure is required") as caught:
        OrthoGrad(Picky([p], lr=0.1)).step(lambda: None)
    assert "OrthoGrad evaluates closures itself" in caught.value.__notes__[0]
    assert torch.equal(p.grad, before)


def test_groups_have_their_own_rates_and_can_be_added():
    a, b, c = parameters([(3, 4), (2, 5), (6,)])
    optimizer = OrthoGrad([{"params": [a]}, {"params": [b], "lr": 0.0}], torch.optim.SGD, lr=0.1)
    optimizer.add_param_group({"params": [c], "lr": 0.2})
    before = [p.detach().clone() for p in (a, b, c)]
    optimizer.step()
    for p, start, lr in zip((a, b, c), before, (0.1, 0.0, 0.2), strict=True):
        torch.testing.assert_close(p.detach(), start - lr * projected(start, p.grad))


def test_accumulated_gradients_are_projected_as_one():
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    models = [nn.Linear(4, 3, dtype=torch.float64) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, batches in zip(models, (1, 4), strict=True):
        optimizer = OrthoGrad(torch.optim.SGD(model.parameters(), lr=0.1))
        for part in x.chunk(batches):
            (model(part).square().mean() / batches).backward()
        optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_it_works_with_a_grad_scaler():
    (p,), (q,) = parameters([(4, 5)], torch.float32), parameters([(4, 5)], torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled, plain = OrthoGrad(torch.optim.SGD([p], 0.1)), OrthoGrad(torch.optim.SGD([q], 0.1))
    target = torch.ones(4, 5)
    scaled.zero_grad()
    scaler.scale((p - target).square().sum()).backward()
    scaler.step(scaled)
    scaler.update()
    q.grad = 2 * (q.detach() - target)
    plain.step()
    torch.testing.assert_close(p, q)
    before = p.detach().clone()
    p.grad = torch.full_like(p, torch.inf)
    scaler.step(scaled)  # which it skips
    assert torch.equal(p, before)


class Tied(nn.Module):
    """A small transformer whose embedding is also its last layer."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, x):
        return self.out(self.layer(self.tokens(x))[:, -1])


@pytest.mark.parametrize("granularity", ["tensor", "global", "row"])
def test_it_trains_networks_with_batch_norm_shared_and_frozen_parts(granularity):
    with seeded(0):
        cases = [
            (SmallResNet(4, (4, 8)), torch.randn(8, 1, 56, 56), torch.arange(8) % 4),
            (Tied(), torch.randint(11, (8, 3)), torch.arange(8)),
        ]
    for model, x, y in cases:
        frozen = next(p for name, p in model.named_parameters() if "norm" in name)
        frozen.requires_grad_(False)
        kept, weight = frozen.clone(), next(p for p in model.parameters() if p.requires_grad and p.ndim > 1)
        optimizer = OrthoGrad(torch.optim.AdamW(model.parameters(), lr=3e-3), granularity=granularity)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=isinstance(model, Tied)):
                loss = functional.cross_entropy(model(x).float(), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]
        assert torch.equal(frozen, kept)
        assert torch.isfinite(weight).all()


def test_compiled_networks_train_as_others():
    x, y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    found = []
    for wrap in (lambda m: m, lambda m: torch.compile(m, backend="eager")):
        with seeded(0):
            model = wrap(mlp([6, 8, 3]))
        optimizer = OrthoGrad(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        found.append([p.detach() for p in model.parameters()])
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q)


def test_processes_that_reduce_first_agree_with_one(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        x, y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
        found = []
        for wrap in (lambda m: m, nn.parallel.DistributedDataParallel):
            with seeded(0):
                model = wrap(mlp([6, 8, 3]))
            functional.cross_entropy(model(x), y).backward()
            orthogonalize_gradients_(model)  # gradients of DDP may be views of its buckets
            found.append([p.grad.clone() for p in model.parameters()])
        for p, q in zip(*found, strict=True):
            torch.testing.assert_close(p, q)
    finally:
        torch.distributed.destroy_process_group()


WORKER = """
import sys, torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from paperworks.training import OrthoGrad, orthogonalize_gradients_
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/store", rank=rank, world_size=2)
mesh, found = init_device_mesh("cpu", (2,)), {}
for granularity in ("tensor", "global", "row"):
    for sharded in (False, True):
        torch.manual_seed(0)
        model, x = nn.Linear(8, 5), torch.randn(6, 8)
        if sharded:
            fully_shard(model, mesh=mesh)
        optimizer = OrthoGrad(torch.optim.SGD(model.parameters(), 0.1), granularity=granularity)
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
        orthogonalize_gradients_(model, granularity=granularity, foreach=True)
        pairs = [t for p in model.parameters() for t in (p.detach(), p.grad)]
        found[granularity, sharded] = [t.full_tensor() if sharded else t for t in pairs]
if rank == 0:
    torch.save(found, f"{sys.argv[2]}/found.pt")
distributed.barrier()
distributed.destroy_process_group()
"""


def test_parameters_that_processes_share_are_projected_as_whole_ones(tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    found = torch.load(tmp_path / "found.pt")
    for granularity in ("tensor", "global", "row"):
        for ours, whole in zip(found[granularity, True], found[granularity, False], strict=True):
            torch.testing.assert_close(ours, whole)


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_are_refused_by_name():
    p = nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([p], 0.1)
    for arguments, options, error, message in [
        ((p,), {}, TypeError, "base_optimizer is a Parameter"),
        (([p], nn.Linear), {}, TypeError, "base_cls"),
        ((sgd, torch.optim.SGD), {}, TypeError, "base_cls is given with a finished optimiser"),
        ((sgd,), {"lr": 0.1}, TypeError, "lr: options"),
        ((torch.optim.LBFGS([p]),), {}, TypeError, "LBFGS"),
        ((sgd,), {"granularity": "layer"}, ValueError, "granularity"),
        ((sgd,), {"eps": -1.0}, ValueError, "eps"),
        ((sgd,), {"rescale": 1}, TypeError, "rescale"),
        ((sgd,), {"foreach": "no"}, TypeError, "foreach"),
        (([p], torch.optim.SGD), {"lr": -0.1}, ValueError, "lr"),
        (([nn.Parameter(torch.ones(2, device="meta"))], torch.optim.SGD), {}, ValueError, "meta device"),
        (([nn.Parameter(torch.ones(2, dtype=torch.complex64))], torch.optim.SGD), {}, RuntimeError, "complex"),
    ]:
        with pytest.raises(error, match=message):
            OrthoGrad(*arguments, **options)
    with pytest.raises(ValueError, match="meta device"):
        orthogonalize_gradients_(nn.Linear(2, 2, device="meta"))
    wrapped = OrthoGrad(sgd)
    with pytest.raises(RuntimeError, match="complex"):
        wrapped.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(wrapped.param_groups) == 1
    with pytest.raises(TypeError, match="params has a float"):
        orthogonalize_gradients_([1.0])
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    for act in (
        OrthoGrad(torch.optim.SGD(embedding.parameters(), 0.1)).step,
        lambda: orthogonalize_gradients_(embedding),
    ):
        with pytest.raises(RuntimeError, match="sparse"):
            act()
