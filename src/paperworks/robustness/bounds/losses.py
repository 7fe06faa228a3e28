"""What is bounded to certify a classifier, and to train one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from paperworks.core.validation import check_count


def margin_spec(labels: Int[Tensor, " batch"], classes: int) -> Float[Tensor, "batch specs classes"]:
    """Return the specification of margins: the label's logit minus that of every other class.

    A sample whose margins all have positive lower bounds is certified. Rows keep the order of the other classes.

    Parameters
    ----------
    labels
        The true class of each sample.
    classes
        How many classes there are.

    Returns
    -------
    Tensor of shape (batch, specs, classes)
        Coefficients of shape (batch, classes - 1, classes).

    Raises
    ------
    ValueError
        Where a label is no class.

    Examples
    --------
    >>> margin_spec(torch.tensor([1]), 3)
    tensor([[[-1.,  1.,  0.],
             [ 0.,  1., -1.]]])
    """
    classes = check_count("classes", classes, at_least=2)
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels go from {int(labels.min())} to {int(labels.max())}; they take 0 to {classes - 1}")
    eye = torch.eye(classes, device=labels.device)
    others = torch.ones(len(labels), classes, dtype=torch.bool, device=labels.device)
    others[torch.arange(len(labels), device=labels.device), labels] = False
    rows = eye[labels][:, None] - eye
    return rows[others].reshape(len(labels), classes - 1, classes)


def robust_cross_entropy(margins: Float[Tensor, "batch specs"]) -> Float[Tensor, " batch"]:
    """Return the cross-entropy of logits that differ by these margins: with lower bounds of them, its upper bound.

    Parameters
    ----------
    margins
        Lower bounds of the rows of `margin_spec`.

    Returns
    -------
    Tensor of shape (batch,)
        The loss of each sample, in nats.

    Examples
    --------
    >>> robust_cross_entropy(torch.zeros(1, 3))  # four classes, none ahead
    tensor([1.3863])
    """
    return torch.cat([torch.zeros_like(margins[:, :1]), -margins], 1).logsumexp(1)


class CrossEntropyWrapper(nn.Module):
    r"""A classifier with its loss: bounds of its output need one row, however many classes there are (loss fusion).

    The output is :math:`\log \sum_j \exp(z_j - z_y)`, the cross-entropy of each sample. Given the same intervals of
    the logits' differences, its upper bound is never above the cross-entropy of bounds of the margins.

    Parameters
    ----------
    model
        A classifier that returns logits (batch, classes).

    Examples
    --------
    >>> from paperworks.robustness import BoundedModule, BoundedTensor, PerturbationLpNorm
    >>> x, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 0, 2])
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> fused = BoundedModule(CrossEntropyWrapper(model), (x, labels))
    >>> ball = BoundedTensor(x, PerturbationLpNorm(0.1))
    >>> _, loss = fused.compute_bounds((ball, labels), "CROWN-IBP", bound_lower=False)
    >>> bool((torch.nn.functional.cross_entropy(model(x), labels, reduction="none") <= loss).all())
    True

    References
    ----------
    Xu et al. (2020), arXiv 2002.12920, section 3.3 and theorem 3.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Float[Tensor, " batch"]:
        """Return the loss of each sample; the last input is the labels (batch,), those before it are the model's.

        Returns
        -------
        Tensor of shape (batch,)
            The loss of each sample, in nats.
        """
        *inputs_of_model, labels = inputs
        logits = self.model(*inputs_of_model)
        return torch.logsumexp(logits - logits.gather(1, labels[:, None]), 1)
