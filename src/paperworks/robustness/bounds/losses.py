"""What is bounded to certify a classifier, and to train one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
