"""What a notebook shows of the containers that results may hold."""

from typing import NamedTuple

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse

from paperworks.evidence.notebook_results import result_html

EVIL = "<script>alert(1)</script>"


class Result(NamedTuple):
    value: object


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (sparse.eye_array(3).tocsr(), "3 × 3, float64, from 0 to 1"),
        (sparse.csr_matrix(np.eye(2)), "2 × 2, float64, from 0 to 1"),
        (torch.eye(3).to_sparse(), "3 × 3, float32"),
        (pandas.Series([1, 2]), "2, int64, from 1 to 2"),
        (pandas.Index([EVIL, "b"]), "2, "),
        (pandas.DataFrame({EVIL: [1]}), "&lt;script&gt;"),
        (np.array([EVIL, None], dtype=object), "&lt;script&gt;alert(1)&lt;/script&gt;, – (2, object)"),
        ({EVIL: [EVIL]}, "&lt;script&gt;alert(1)&lt;/script&gt;: &lt;script&gt;"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_with_any_container_is_shown(value, words):
    html = result_html(Result(value))
    assert words in html
    assert "<script" not in html
