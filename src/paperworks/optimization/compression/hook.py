"""A communication hook for DistributedDataParallel: compressed differences with error feedback, and checkpoints."""

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, no_type_check

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.optimization.compression.compressors import Compressor, Payload, TopK, add_payload

_NOT_FINITE = 255  # the exponent that stands for infinity, where values are sent as exponents


class _Memory:
    """The shift of a worker and the weighted sum of all shifts, for the parameters of one bucket."""

    def __init__(self, params: list[Tensor], shift: Tensor, total: Tensor) -> None:
        self.params, self.shift, self.total = params, shift, total
        self.members = set(params)

    def is_of(self, params: list[Tensor]) -> bool:
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params, strict=True))

    def parts(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        sizes = [p.numel() for p in self.params]
        return list(zip(self.params, self.shift.split(sizes), self.total.split(sizes), strict=True))


class EF21State:
    """What `ef21_hook` keeps from step to step: shifts, weights, the number of the iteration, and what was sent.

    Shifts belong to parameters, not to buckets: they stay right when DDP forms its buckets anew after the first
    iteration. Each model takes a state of its own, and so does each worker, which saves its own, by `state_dict` or by
    pickling; the process group is not saved. A resumed run goes on bit for bit where DDP keeps its buckets (there is
    one, or `find_unused_parameters`); where it forms them anew, its first iteration chooses entries among other
    neighbours. Should a worker die within a step, the others raise RuntimeError, and what they then save is the state
    before that step.

    Parameters
    ----------
    process_group
        The group of workers, by default the one of all.
    compressor
        What is sent of a difference, of a fixed size; `TopK(ratio=0.01)` by default.
    weight
        "uniform", "smoothness" for weights in proportion to the workers' `smoothness`, or this worker's own weight,
        where those of all workers sum to 1.
    smoothness
        Smoothness constant of this worker's loss, as `estimate_smoothness` finds it.
    start_compress_iter
        Iterations before this one average whole gradients.
    warm_start
        Whether shifts begin with the "full" gradients of the first compressed iteration, which are sent whole, or with
        "compressed" ones.
    dtype
        Type of the shifts, whatever the gradients are.
    params
        The model's parameters, by whose order a checkpoint is kept. By default it is the order in which the hook meets
        them, which is the same again after a restart with the same settings of DDP.

    Raises
    ------
    TypeError
        If the compressor is none, or `dtype` is no type of real numbers.
    ValueError
        If an option is out of range, or the payloads of the compressor vary in size.

    Examples
    --------
    >>> from paperworks.optimization import TopK, ef21_hook
    >>> state = EF21State(compressor=TopK(ratio=0.01), warm_start="compressed")
    >>> model.register_comm_hook(state, ef21_hook)  # doctest: +SKIP
    >>> torch.save(state.state_dict(), f"hook-{rank}.pt")  # doctest: +SKIP
    """

    def __init__(
        self,
        process_group: Any = None,
        compressor: Compressor | None = None,
        *,
        weight: Literal["uniform", "smoothness"] | float = "uniform",
        smoothness: float | None = None,
        start_compress_iter: int = 0,
        warm_start: Literal["full", "compressed"] = "full",
        dtype: torch.dtype = torch.float32,
        params: Iterable[Tensor] | None = None,
    ) -> None:
        compressor = TopK(ratio=0.01) if compressor is None else compressor
        if not isinstance(compressor, Compressor):
            raise TypeError(f"compressor is {type(compressor).__name__}; it takes a Compressor")
        if not compressor.fixed_size:
            raise ValueError(f"compressor is {compressor}, whose payloads vary in size; it takes one of a fixed size")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}; it takes a type of real numbers")
        if isinstance(weight, str):
            check_choice("weight", weight, ("uniform", "smoothness"))
            if (weight == "smoothness") == (smoothness is None):
                raise ValueError(f"smoothness is {smoothness}, weight is {weight!r}; 'smoothness' takes a constant")
        else:
            check_number("weight", weight, gt=0, le=1)
        self.process_group, self.compressor = process_group, compressor
        self.weight = weight
        self.smoothness = None if smoothness is None else check_number("smoothness", smoothness, gt=0)
        self.start_compress_iter = check_count("start_compress_iter", start_compress_iter, at_least=0)
        self.warm_start = check_choice("warm_start", warm_start, ("full", "compressed"))
        self.dtype = dtype
        self.iteration = 0
        """Iterations that are complete."""
        self.bytes_sent = 0
        """Bytes that this worker has handed to collectives."""
        self.bytes_received = 0
        """Bytes that it was handed by the others: the fan-out of gathering, with `world - 1` messages each time."""
        self.bytes_dense = 0
        """Bytes that it would have handed to averaging whole gradients."""
        self._reset(list(params) if params is not None else [])

    def _reset(self, params: list[Tensor]) -> None:
        self._order: dict[Tensor, int] = {p: number for number, p in enumerate(dict.fromkeys(params))}
        self._fixed, self._known = bool(params), False  # by `params`; by a whole iteration
        self._buckets: dict[int, _Memory] = {}
        self._loose: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._saved: list[dict[str, Any]] = []
        self._saved_by: tuple[int, int] | None = None  # world size and rank
        self._weights: list[float] = []  # of all workers, once they have met
        self._scratch: dict[torch.device, Tensor] = {}
        self._undo: list[Callable[[], Any]] = []
        self._waiting, self._closed = 0, False
        self._lock = threading.Lock()

    def state_dict(self) -> dict[str, Any]:
        """Return what this worker has to save, in tensors and numbers, as of the last complete iteration.

        Returns
        -------
        dict[str, Any]
            Shifts by parameter, the iteration, the worker's place, and the counts of bytes.
        """
        self._roll_back()
        held = {p: (shift, total) for memory in self._buckets.values() for p, shift, total in memory.parts()}
        held |= self._loose
        params: list[dict[str, Any]] = [{"numel": p.numel()} for p in self._order]
        params += [dict(entry) for entry in self._saved[len(params) :]]  # not met again yet
        for p, (shift, total) in held.items():
            params[self._order[p]] |= {"shift": shift.clone(), "total": total.clone()}
        here = (dist.get_world_size(self.process_group), dist.get_rank(self.process_group)) if self._weights else None
        return {
            "iteration": self.iteration,
            "bytes": [self.bytes_sent, self.bytes_received, self.bytes_dense],
            "saved_by": here or self._saved_by,
            "compressor": repr(self.compressor),
            "params": params,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned on the same worker of as many.

        Parameters
        ----------
        state_dict
            What was saved; it is not changed.

        Raises
        ------
        ValueError
            If entries are missing, or the compressor was another.
        """
        expected = {"iteration", "bytes", "saved_by", "compressor", "params"}
        if set(state_dict) != expected:
            raise ValueError(f"state_dict has the entries {sorted(state_dict)}; it takes {sorted(expected)}")
        if state_dict["compressor"] != repr(self.compressor):
            raise ValueError(f"state_dict is of {state_dict['compressor']}; it takes one of {self.compressor}")
        self._reset(list(self._order) if self._fixed else [])
        self.iteration = int(state_dict["iteration"])
        self.bytes_sent, self.bytes_received, self.bytes_dense = state_dict["bytes"]
        self._saved = [dict(entry) for entry in state_dict["params"]]
        self._saved_by = None if state_dict["saved_by"] is None else tuple(state_dict["saved_by"])
        for p, number in self._order.items():
            self._take_saved(p, number)

    def __getstate__(self) -> dict[str, Any]:
        settings = ("compressor", "weight", "smoothness", "start_compress_iter", "warm_start", "dtype")
        return {"settings": {name: getattr(self, name) for name in settings}, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["settings"])  # type: ignore[misc]
        self.load_state_dict(state["state"])

    # The workers meet once in each process.

    def _meet(self, device: torch.device) -> None:
        world, rank = dist.get_world_size(self.process_group), dist.get_rank(self.process_group)
        if self._weights:
            if world != len(self._weights):
                raise RuntimeError(f"the group has {world} workers, it had {len(self._weights)}; their shifts are lost")
            return
        if self._saved_by is not None and self._saved_by[0] != world:
            raise RuntimeError(f"the state was saved by {self._saved_by[0]} workers and the group has {world}")
        if self._saved_by is not None and self._saved_by[1] != rank:
            raise RuntimeError(f"the state is worker {self._saved_by[1]}'s and this is {rank}; each has its own")
        own = self.smoothness if self.weight == "smoothness" else 1 / world if self.weight == "uniform" else self.weight
        told = torch.tensor([float(own), self.iteration], dtype=torch.float64, device=device)  # type: ignore[arg-type]
        heard = [torch.empty_like(told) for _ in range(world)]
        dist.all_gather(heard, told, group=self.process_group)
        weights, iterations = zip(*(pair.tolist() for pair in heard), strict=True)
        if len(set(iterations)) > 1:
            numbers = [int(i) for i in iterations]
            raise RuntimeError(f"the workers resume at iterations {numbers}; load checkpoints of one and the same")
        total = math.fsum(weights)
        if self.weight == "smoothness":
            weights = tuple(w / total for w in weights)
        elif abs(total - 1) > 1e-6:
            raise ValueError(f"weight is {list(weights)} over the workers, of sum {total:g}; it takes a sum of 1")
        self._weights, self._rank = list(weights), rank
        self._scale = 1 / (world * self._weights[rank])

    # Memory goes where the parameters go.

    def _memory(self, bucket: Any) -> _Memory | None:
        """Return the memory of a bucket, put together anew if it has other parameters than before."""
        params = bucket.parameters()
        memory = self._buckets.get(bucket.index())
        if memory is not None and memory.is_of(params):
            return memory
        for index, other in list(self._buckets.items()):
            if index == bucket.index() or any(p in other.members for p in params):
                self._loose |= {p: (shift, total) for p, shift, total in other.parts()}
                del self._buckets[index]
        for p in params:
            if p not in self._order:
                if self._known:
                    raise RuntimeError("bucket has parameters of another model; each model takes a state of its own")
                if self._fixed:
                    raise RuntimeError("params doesn't have all parameters that the hook meets; it takes the model's")
                self._order[p] = len(self._order)
                self._take_saved(p, self._order[p])
        self._known |= bucket.is_last()
        if not any(p in self._loose for p in params):
            return None
        device = bucket.buffer().device
        parts = []
        for p in params:
            none = torch.zeros(p.numel(), dtype=self.dtype, device=device)
            parts.append(self._loose.pop(p, (none, none)))
        shift, total = (torch.cat([part.to(device, self.dtype) for part in side]) for side in zip(*parts, strict=True))
        self._buckets[bucket.index()] = _Memory(params, shift, total)
        return self._buckets[bucket.index()]

    def _take_saved(self, p: Tensor, number: int) -> None:
        if not self._saved:
            return
        if number >= len(self._saved) or self._saved[number]["numel"] != p.numel():
            raise RuntimeError(f"the saved state has other parameters: number {number} here has {p.numel()} entries")
        if "shift" in self._saved[number]:
            self._loose[p] = self._saved[number]["shift"], self._saved[number]["total"]

    # An iteration is complete when all buckets are, or undone.

    def _begin(self, bucket: Any) -> None:
        if bucket.index() == 0:
            self._roll_back()
        with self._lock:
            self._waiting += 1
            self._closed |= bucket.is_last()

    def _done(self) -> None:
        with self._lock:
            self._waiting -= 1
            if self._closed and not self._waiting:
                self.iteration += 1
                self._undo.clear()
                self._closed = False

    def _roll_back(self) -> None:
        """Undo what an iteration has changed that has not come to its end."""
        with self._lock:
            while self._undo:
                self._undo.pop()()
            self._waiting, self._closed = 0, False

    def _remember(self, tensor: Tensor, index: Tensor | None) -> None:
        old = tensor.clone() if index is None else tensor[index]
        where = slice(None) if index is None else index
        self._undo.append(lambda: tensor.__setitem__(where, old))

    def _difference(self, gradient: Tensor, shift: Tensor) -> Tensor:
        """Return the gradient over n times the weight, less the shift, in a buffer that is used again and again."""
        device, size = gradient.device, gradient.numel()
        if device not in self._scratch or self._scratch[device].numel() < size:
            self._scratch[device] = torch.empty(size, dtype=self.dtype, device=device)
        out = self._scratch[device][:size]
        if gradient.dtype == self.dtype and self._scale == 1:
            return torch.sub(gradient, shift, out=out)
        out.copy_(gradient)
        return torch.sub(out if self._scale == 1 else out.mul_(self._scale), shift, out=out)

    def _then(self, start: Callable[[], dist.Work], finish: Callable[[], Tensor], what: str) -> Any:
        """Start a collective, and go on when it has come to its end, or say that it failed."""

        def failed(error: Exception) -> RuntimeError:
            return RuntimeError(
                f"{what} of iteration {self.iteration} failed: a worker was lost or took too long ({error}). The state "
                f"of the hook is that after {self.iteration} iterations: save it, and resume all workers from one."
            )

        def finished(future: Any) -> Tensor:
            try:
                future.value()
            except Exception as error:
                raise failed(error) from error
            with torch.no_grad():
                result = finish()
            self._done()
            return result

        try:
            future = start().get_future()
        except RuntimeError as error:
            raise failed(error) from error
        return future.then(finished)


@torch.no_grad()
@no_type_check  # DDP asks for these types by name, and gives others of the same protocol
def ef21_hook(state: EF21State, bucket: dist.GradBucket) -> Future[Tensor]:
    """Average the gradients of all workers by EF21 or EF21-W of arXiv 2402.10774, sending compressed differences.

    Each worker sends `u_i = C(gradient / (n w_i) - g_i)`, all workers gather them, and each adds `sum_j w_j u_j` to its
    copy of `g`, which becomes the gradient: it is an average, and is not to be divided again. A worker whose gradient
    isn't finite makes it NaN for all, and no shift changes, as scaling of losses in half precision needs. Any optimiser
    may go on from there; theory speaks of plain gradient descent. Within `no_sync()` nothing is sent.

    Parameters
    ----------
    state
        The settings and the memory of this worker.
    bucket
        The gradients of some parameters, as DDP gives them.

    Returns
    -------
    Future[Tensor]
        The averaged gradients of the bucket.

    Raises
    ------
    TypeError
        If gradients are sparse.
    RuntimeError
        If a worker is lost, the number of workers is not that of before, or the state is another model's.

    Examples
    --------
    >>> model = DistributedDataParallel(network)  # doctest: +SKIP
    >>> model.register_comm_hook(EF21State(), ef21_hook)  # doctest: +SKIP
    """
    gradient = bucket.buffer()
    if gradient.layout != torch.strided:
        raise TypeError(f"bucket has gradients of layout {gradient.layout}; it takes dense ones")
    state._meet(gradient.device)
    state._begin(bucket)
    memory = state._memory(bucket)
    state.bytes_dense += gradient.nbytes
    if state.iteration < state.start_compress_iter:
        return _averaged(state, bucket, keep=False)
    if memory is None:
        if state.warm_start == "full":
            return _averaged(state, bucket, keep=True)
        nothing = torch.zeros_like(gradient, dtype=state.dtype)
        memory = _remembered(state, bucket.index(), _Memory(bucket.parameters(), nothing, nothing.clone()))
    return _compressed(state, bucket, memory)


def _remembered(state: EF21State, index: int, memory: _Memory) -> _Memory:
    state._buckets[index] = memory
    state._undo.append(lambda: state._buckets.pop(index, None))
    return memory


def _averaged(state: EF21State, bucket: Any, *, keep: bool) -> Any:
    gradient, world = bucket.buffer(), len(state._weights)
    index, params = bucket.index(), bucket.parameters()  # the bucket itself may be gone when all have sent
    shift = gradient.to(state.dtype) * state._scale if keep else None
    # What is kept must be the sum of the shifts: what halves lose in adding would stay in `total` for good.
    sent = gradient.to(torch.promote_types(gradient.dtype, state.dtype)) if keep else gradient
    sent.div_(world)
    state.bytes_sent += sent.nbytes
    state.bytes_received += sent.nbytes

    def finish() -> Tensor:
        if shift is not None and _all_finite(sent):
            _remembered(state, index, _Memory(params, shift, sent.to(state.dtype, copy=True)))
        return gradient if sent is gradient else gradient.copy_(sent)

    return state._then(
        lambda: dist.all_reduce(sent, group=state.process_group, async_op=True), finish, f"averaging bucket {index}"
    )


def _compressed(state: EF21State, bucket: Any, memory: _Memory) -> Any:
    gradient, compressor = bucket.buffer(), state.compressor
    difference = state._difference(gradient, memory.shift)
    finite = _all_finite(difference)
    compressor._check(len(difference))
    own = compressor.encode(difference if finite else difference.zero_())
    if not finite:
        own.values.fill_(math.nan if own.values.is_floating_point() else _NOT_FINITE)
    message = _packed(own)
    received = [torch.empty_like(message) for _ in state._weights]
    state.bytes_sent += message.nbytes
    state.bytes_received += message.nbytes * (len(received) - 1)

    def finish() -> Tensor:
        payloads = [_unpacked(message, own) for message in received]
        if not all(_is_finite(payload) for payload in payloads):
            return gradient.fill_(math.nan)
        everywhere = torch.cat([p.indices.long() for p in payloads]) if compressor.sparse else None  # type: ignore[union-attr]
        state._remember(memory.shift, own.indices if compressor.sparse else None)
        state._remember(memory.total, everywhere)
        add_payload(compressor, own, memory.shift)
        for payload, weight in zip(payloads, state._weights, strict=True):
            add_payload(compressor, payload, memory.total, weight)
        return gradient.copy_(memory.total)

    return state._then(
        lambda: dist.all_gather(received, message, group=state.process_group, async_op=True),
        finish,
        f"gathering bucket {bucket.index()}",
    )


def _packed(payload: Payload) -> Tensor:
    """Return a payload as bytes: its values, then its indices in 32 bits where these suffice."""
    parts = [payload.values.reshape(-1)]
    if payload.indices is not None:
        parts.append(payload.indices.to(_index_type(payload)).reshape(-1))
    return torch.cat([part.view(torch.uint8) for part in parts])


def _unpacked(message: Tensor, like: Payload) -> Payload:
    """Read a payload from bytes, of the same sizes and types as another one."""
    values = message[: like.values.nbytes].view(like.values.dtype).view(like.values.shape)
    if like.indices is None:
        return Payload(values, None, like.shape, like.dtype)
    indices = message[like.values.nbytes :].view(_index_type(like)).view(like.indices.shape)
    return Payload(values, indices, like.shape, like.dtype)


def _index_type(payload: Payload) -> torch.dtype:
    assert payload.indices is not None
    if payload.indices.dtype == torch.uint8:  # packed signs
        return torch.uint8
    return torch.int32 if payload.shape[-1] < 1 << 31 else torch.int64


def _all_finite(tensor: Tensor) -> bool:
    """Say whether all entries are finite, in one pass unless their sum isn't."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def _is_finite(payload: Payload) -> bool:
    if payload.values.is_floating_point():
        return _all_finite(payload.values)
    return not bool((payload.values == _NOT_FINITE).any())
