"""EF21 as an optimiser: federated training with compressed gradients, simulated in one process."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.optimization.compression.compressors import Compressor, TopK, add_payload
from paperworks.optimization.compression.simulator import _summing
from paperworks.optimization.compression.stepsizes import Numbers


class EF21Optimizer(Optimizer):
    """Gradient descent whose clients send compressed differences to their shifts, EF21 or EF21-W of arXiv 2402.10774.

    With one client it is `step(closure)` as ever. With several, each client's gradient is computed in turn and handed
    over by `send(client)`; a client that doesn't send takes no part in the round. Each group of parameters is
    compressed as one vector.

    Parameters
    ----------
    params
        Parameters, or groups of them.
    lr
        The step size; `stepsize_ef21` says which one theory allows.
    compressor
        What is sent of a difference; `TopK(ratio=0.01)` by default.
    n_clients
        How many clients there are.
    weights
        Weights of the clients, of sum 1; all the same by default, and `L_i / sum L` for EF21-W.
    momentum
        Heavy-ball momentum, of which theory says nothing.
    weight_decay
        What is added to the gradient, times the parameter; it is not compressed.

    Raises
    ------
    TypeError
        If the compressor is none, or a gradient is sparse or complex.
    ValueError
        If an option is out of range, or weights don't sum to 1 to 1e-6.

    Examples
    --------
    >>> layer = torch.nn.Linear(4, 1)
    >>> optimizer = EF21Optimizer(layer.parameters(), lr=0.1, n_clients=2)
    >>> for client, rows in enumerate(torch.randn(2, 8, 4)):
    ...     optimizer.zero_grad()
    ...     layer(rows).square().mean().backward()
    ...     optimizer.send(client)
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        compressor: Compressor | None = None,
        *,
        n_clients: int = 1,
        weights: Numbers | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.compressor = TopK(ratio=0.01) if compressor is None else compressor
        if not isinstance(self.compressor, Compressor):
            raise TypeError(f"compressor is {type(compressor).__name__}; it takes a Compressor")
        self.n_clients = check_count("n_clients", n_clients)
        self._weights = [1 / n_clients] * n_clients if weights is None else _summing(weights, n_clients).tolist()
        self._sent = False
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own.

        Parameters
        ----------
        param_group
            Its parameters as "params", and options that differ from the defaults.
        """
        for name in ("lr", "momentum", "weight_decay"):
            check_number(name, param_group.get(name, self.defaults[name]), ge=0)
        super().add_param_group(param_group)

    @torch.no_grad()
    def send(self, client: int, generator: torch.Generator | None = None) -> None:
        """Send the difference of the present gradients to a client's shift, compressed.

        Parameters
        ----------
        client
            Whose gradients they are, from 0.
        generator
            Draws what compression has at random, torch's global one by default.
        """
        check_count("client", client, at_least=0, at_most=self.n_clients - 1)
        weight, ready = self._weights[client], []
        for group in self.param_groups:
            # Where a client has no gradient of a parameter, its shift stays.
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            if not params:
                continue
            shifts = [self._state(p)["shifts"][client] for p in params]
            difference = torch.cat([_gradient(p).to(s.dtype).reshape(-1) for p, s in zip(params, shifts, strict=True)])
            difference.div_(self.n_clients * weight).sub_(torch.cat([s.reshape(-1) for s in shifts]))
            ready.append((params, shifts, check_finite("gradient", difference)))
        for params, shifts, difference in ready:
            change = torch.zeros_like(difference)
            add_payload(self.compressor, self.compressor.compress(difference, generator), change)
            parts = [part.view_as(p) for p, part in zip(params, change.split([p.numel() for p in params]), strict=True)]
            torch._foreach_add_(shifts, parts)
            torch._foreach_add_([self.state[p]["average"] for p in params], parts, alpha=weight)
        self._sent = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with the average of what all clients have sent.

        Parameters
        ----------
        closure
            Evaluates the loss and its gradients, where there is one client: it sends them first. Without a closure the
            present gradients are sent, unless they have been.

        Returns
        -------
        Any
            What the closure returned, None without one.

        Raises
        ------
        TypeError
            If there are several clients and a closure, which doesn't say whose loss it is.
        """
        loss = None
        if closure is not None:
            if self.n_clients > 1:
                raise TypeError(f"closure is given with {self.n_clients} clients; it takes `send(client)` for each")
            with torch.enable_grad():
                loss = closure()
        if self.n_clients == 1 and not self._sent:
            self.send(0)
        self._sent = False
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self.state:
                    continue
                update = self.state[p]["average"]
                if group["weight_decay"]:
                    update = update + group["weight_decay"] * p
                if group["momentum"]:
                    velocity = self.state[p].setdefault("velocity", torch.zeros_like(update))
                    update = velocity.mul_(group["momentum"]).add_(update)
                p.sub_((group["lr"] * update).to(p.dtype))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; shifts keep their precision, whatever that of the parameters.

        Parameters
        ----------
        state_dict
            What was saved, of an optimiser with the same groups.

        Raises
        ------
        ValueError
            If it was saved with another number of clients.
        """
        for entry in state_dict["state"].values():
            if len(entry["shifts"]) != self.n_clients:
                raise ValueError(f"state_dict is of {len(entry['shifts'])} clients; it takes one of {self.n_clients}")
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[p][name] = value.to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        own = ("compressor", "n_clients", "_weights", "_sent")
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            wide = p.dtype if p.dtype == torch.float64 else torch.float32
            state["shifts"] = torch.zeros(self.n_clients, *p.shape, dtype=wide, device=p.device)
            state["average"] = torch.zeros(p.shape, dtype=wide, device=p.device)
        return state


def _gradient(p: Tensor) -> Float[Tensor, "..."]:
    assert p.grad is not None
    if p.grad.layout != torch.strided or not p.is_floating_point():
        raise TypeError(f"params has a gradient of {p.dtype} and layout {p.grad.layout}; it takes dense, real ones")
    return p.grad
