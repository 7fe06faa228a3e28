"""What is to be verified: a box of inputs, and the outputs that none of them may have."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paperworks.core.validation import check_count, check_finite, check_number

Polytope = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Property:
    r"""A property of a network: no input of a box has an output in any of several polytopes.

    Parameters
    ----------
    lower, upper
        Ends of the box, of the shape of one input; kept in double precision.
    unsafe
        Pairs (A, b) of shapes (rows, outputs) and (rows,): an output y is unsafe where :math:`A y \le b` in all rows
        of a pair, for any of the pairs. Outputs are flattened.

    Raises
    ------
    ValueError
        For ends that cross or do not fit each other, for numbers that are not finite, or where no pair is given.

    Examples
    --------
    The first output is never the greatest while both inputs lie in [0, 1]:

    >>> unsafe = [(torch.tensor([[-1.0, 1.0]]), torch.zeros(1))]
    >>> prop = Property(torch.zeros(2), torch.ones(2), unsafe)
    >>> prop.margin(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
    tensor([ 2., -2.], dtype=torch.float64)

    References
    ----------
    The specifications of VNN-LIB 1.0, as the verification competition (VNN-COMP) uses them.
    """

    lower: Float[Tensor, " *input"]
    upper: Float[Tensor, " *input"]
    unsafe: Sequence[Polytope]

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            end = torch.as_tensor(getattr(self, name)).detach().double()
            check_finite(name, end)
            object.__setattr__(self, name, end)
        if self.lower.shape != self.upper.shape or not self.lower.numel():
            raise ValueError(
                f"lower and upper have shapes {tuple(self.lower.shape)} and {tuple(self.upper.shape)}; "
                "they take one and the same, of one input or more"
            )
        if bool((self.lower > self.upper).any()):
            raise ValueError("lower is above upper in some coordinate; it takes lower <= upper")
        pairs = [_checked(i, A, b) for i, (A, b) in enumerate(self.unsafe)]
        if not pairs:
            raise ValueError("unsafe is empty; it takes one polytope or more")
        if len({A.shape[1] for A, _ in pairs}) > 1:
            raise ValueError(
                f"unsafe has rows of {sorted({A.shape[1] for A, _ in pairs})} outputs; it takes one length"
            )
        object.__setattr__(self, "unsafe", tuple(pairs))

    @property
    def n_outputs(self) -> int:
        """How many outputs it speaks of."""
        return int(self.unsafe[0][0].shape[1])

    def margin(self, outputs: Float[Tensor, " batch *outputs"]) -> Float[Tensor, " batch"]:
        r"""Return how far outputs are from being unsafe.

        Parameters
        ----------
        outputs
            Outputs of a network.

        Returns
        -------
        Tensor of shape (batch,)
            The least over polytopes of the greatest :math:`A_i y - b_i` of the rows, in double precision: an output is
            unsafe where it is 0 or less.
        """
        return self.margins(outputs).amin(1)

    def margins(self, outputs: Float[Tensor, " batch *outputs"]) -> Float[Tensor, "batch polytopes"]:
        """Return how far outputs are from each polytope.

        Parameters
        ----------
        outputs
            Outputs of a network.

        Returns
        -------
        Tensor of shape (batch, polytopes)
            The greatest of the rows of each, in double precision.
        """
        y = outputs.flatten(1).double()
        if y.shape[1] != self.n_outputs:
            raise ValueError(f"outputs have {y.shape[1]} elements; this property takes {self.n_outputs}")
        return torch.stack([(y @ A.T - b).amax(1) for A, b in self.unsafe], 1)

    def holds_input(self, x: Float[Tensor, " batch *input"]) -> Bool[Tensor, " batch"]:
        """Return which inputs lie in the box.

        Parameters
        ----------
        x
            Inputs, of any shape with the elements of the box.

        Returns
        -------
        Tensor of shape (batch,)
            True for each input in the box, its ends included.
        """
        flat = x.flatten(1).double()
        return ((flat >= self.lower.flatten()) & (flat <= self.upper.flatten())).all(1)


def robustness_property(
    x0: Float[Tensor, " *input"],
    eps: float,
    label: int,
    n_classes: int,
    *,
    clip: tuple[float, float] | None = None,
) -> Property:
    r"""Return the property that a class does not change while every feature moves by `eps` at most.

    Parameters
    ----------
    x0
        One input, without a batch.
    eps
        Radius of the ball in the maximum norm.
    label
        The class whose logit is to stay the greatest; a tie counts as a change.
    n_classes
        How many logits the network has.
    clip
        Least and greatest value of a feature, such as (0, 1) for images; nothing is cut off by default.

    Returns
    -------
    Property
        The box, and for each other class the half-space where its logit is no less than the label's.

    Raises
    ------
    ValueError
        For a label that is no class, a negative radius, or an input out of the range to clip to.

    Examples
    --------
    >>> prop = robustness_property(torch.tensor([0.5, 0.95]), 0.1, label=0, n_classes=3, clip=(0, 1))
    >>> prop.upper, len(prop.unsafe)
    (tensor([0.6000, 1.0000], dtype=torch.float64), 2)
    """
    eps = check_number("eps", eps, ge=0)
    n_classes = check_count("n_classes", n_classes, at_least=2)
    label = check_count("label", int(label), at_least=0, at_most=n_classes - 1)
    x = torch.as_tensor(x0).detach().double()
    check_finite("x0", x)
    lower, upper = x - eps, x + eps
    if clip is not None:
        low, high = clip
        if not low < high or bool((x < low).any() or (x > high).any()):
            raise ValueError(
                f"x0 has values from {float(x.min()):g} to {float(x.max()):g}; it takes {low:g} to {high:g}"
            )
        lower, upper = lower.clamp(min=low), upper.clamp(max=high)
    eye = torch.eye(n_classes, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    unsafe = [((eye[label] - eye[j])[None], zero) for j in range(n_classes) if j != label]
    return Property(lower, upper, unsafe)


def _checked(i: int, A: Tensor, b: Tensor) -> Polytope:
    A, b = torch.as_tensor(A).detach().double(), torch.as_tensor(b).detach().double()
    if A.ndim != 2 or not A.numel() or b.shape != A.shape[:1]:
        raise ValueError(
            f"unsafe[{i}] has shapes {tuple(A.shape)} and {tuple(b.shape)}; it takes (rows, outputs) and (rows,)"
        )
    check_finite(f"unsafe[{i}]", A)
    check_finite(f"unsafe[{i}]", b)
    return A, b
