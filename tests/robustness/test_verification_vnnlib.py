"""Files in VNN-LIB: what they mean, that they come back as they were written, and what is refused."""

import gzip
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.robustness import Property, read_vnnlib, robustness_property, write_vnnlib

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 2.5e-1))\n"


def read(folder, text, name="p.vnnlib", **options):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_vnnlib(path, **options)


def satisfied(properties, x, y):
    """Return whether an input and an output satisfy what the file asserts."""
    return any(bool(p.holds_input(x[None])) and float(p.margin(y[None])) <= 0 for p in properties)


def test_a_box_and_a_polytope(tmp_path):
    text = HEAD + "; a comment (with parentheses\n" + BOX + "(assert (<= Y_0 Y_1))\n(assert (>= Y_1 3.5))"
    (prop,) = read(tmp_path, text)
    assert prop.lower.tolist() == [0, -1]
    assert prop.upper.tolist() == [1, 0.25]
    ((A, b),) = prop.unsafe
    assert A.tolist() == [[1, -1], [0, -1]]
    assert b.tolist() == [0, -3.5]


def test_terms_are_linear(tmp_path):
    text = HEAD + BOX + "(assert (<= (+ (* 2.0 Y_0) (- Y_1) (- 3 1)) (- Y_0 (* -1 (* 2 Y_1)))))"
    ((A, b),) = read(tmp_path, text)[0].unsafe
    assert (A.tolist(), b.tolist()) == ([[1, -3]], [-2])


def test_disjuncts_of_one_box_are_one_property(tmp_path):
    text = HEAD + BOX + "(assert (or (and (<= Y_0 0)) (and (>= Y_1 1) (<= Y_1 2)) (<= Y_0 Y_1)))"
    (prop,) = read(tmp_path, text, "p.vnnlib.gz")
    assert [len(b) for _, b in prop.unsafe] == [1, 2, 1]


def test_disjunctions_of_inputs_are_several_properties(tmp_path):
    text = HEAD + BOX + "(assert (or (and (<= X_0 0.5) (<= Y_0 0)) (and (>= X_0 0.75) (or (<= Y_1 0) (>= Y_0 9)))))"
    first, second = read(tmp_path, text)
    assert (first.upper[0], second.lower[0]) == (0.5, 0.75)
    assert len(second.unsafe) == 2


def test_what_nothing_satisfies_is_left_out(tmp_path):
    text = HEAD + BOX + "(assert (or (and (>= X_0 2) (<= Y_0 0)) (and (<= 1 0) (<= Y_0 1)) (<= Y_0 2)))"
    (prop,) = read(tmp_path, text)
    assert prop.unsafe[0][1].tolist() == [2]
    with pytest.raises(ValueError, match="no input satisfies"):
        read(tmp_path, HEAD + BOX + "(assert (>= X_0 2)) (assert (<= Y_0 0))")


def test_nested_terms_mean_what_they_say(tmp_path):
    """The normal form is true where the terms themselves are."""
    atoms = ["(<= Y_0 1)", "(>= Y_1 0)", "(<= Y_0 Y_1)", "(<= X_0 0.5)", "(>= X_0 0.25)", "(>= Y_1 1)"]

    def value(i, x, y):
        return [y[0] <= 1, y[1] >= 0, y[0] <= y[1], x[0] <= 0.5, x[0] >= 0.25, y[1] >= 1][i]

    term = "(and {0} (or {1} (and {2} (or {3} {5}))) (or {4} (and {5} {0})))".format(*atoms)
    found = read(tmp_path, HEAD + BOX + f"(assert {term})")
    ends = [0.0, 0.25, 0.5, 0.75, 1.0]
    for x0, y0, y1 in itertools.product(ends, [-1.0, 0.0, 0.5, 1.0, 2.0], [-1.0, 0.0, 0.5, 1.0, 2.0]):
        v = [value(i, (x0,), (y0, y1)) for i in range(6)]
        expected = v[0] and (v[1] or (v[2] and (v[3] or v[5]))) and (v[4] or (v[5] and v[0]))
        x, y = torch.tensor([x0, 0.0]).double(), torch.tensor([y0, y1]).double()
        assert satisfied(found, x, y) == expected


numbers = st.floats(-1e30, 1e30, allow_nan=False)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_round_trips(tmp_path_factory, data, inputs, outputs, boxes, packed):
    def drawn(*shape):
        count = int(torch.Size(shape).numel())
        values = data.draw(st.lists(numbers, min_size=count, max_size=count))
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    made = []
    for i in range(boxes):
        ends = torch.stack([drawn(inputs), drawn(inputs)]).sort(0).values
        ends[0, 0], ends[1, 0] = -1e31 - 1e30 * i, 1e31  # boxes differ
        A = drawn(2, outputs)
        A[:, 0] = torch.where(A[:, 0] == 0, 1.0, A[:, 0])
        made.append(Property(ends[0], ends[1], [(A, drawn(2)), (-A, drawn(2))]))
    path = tmp_path_factory.mktemp("files") / ("p.vnnlib.gz" if packed else "p.vnnlib")
    write_vnnlib(path, made)
    again = read_vnnlib(path)
    assert len(again) == boxes
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.lower, other.lower)
        assert torch.equal(one.upper, other.upper)
        for (A, b), (A_too, b_too) in zip(one.unsafe, other.unsafe, strict=True):
            assert torch.equal(A, A_too)
            assert torch.equal(b, b_too)


def test_robustness_is_written_as_the_competition_writes_it(tmp_path):
    prop = robustness_property(torch.rand(2, 2), 0.1, 1, 3, clip=(0, 1))
    write_vnnlib(tmp_path / "p.vnnlib", prop)
    text = (tmp_path / "p.vnnlib").read_text()
    assert "(and (<= Y_1 Y_0))" in text
    (again,) = read_vnnlib(tmp_path / "p.vnnlib")
    assert torch.equal(again.lower, prop.lower.flatten())
    with pytest.raises(ValueError, match="several of"):
        write_vnnlib(tmp_path / "q.vnnlib", [prop, robustness_property(torch.rand(3), 0.1, 1, 3)])
    assert [p.name for p in tmp_path.iterdir()] == ["p.vnnlib"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1)", "line 1: '\\(' is not closed"),
        ("(assert (<= X_9 1))", "line 1: 'X_9' is found"),
        (HEAD + BOX + "(assert (<= Y_0 1)))", "line 6: '\\)' closes nothing"),
        (HEAD + BOX + "Y_0", "line 6: 'Y_0' stands outside"),
        (HEAD + BOX + "(assert (< Y_0 1))", "line 6: '\\(< …\\)' is found; it takes and, or"),
        (HEAD + BOX + "(assert (<= Y_0 nan))", "'nan' is found; it takes a number"),
        (HEAD + BOX + "(assert (<= Y_0 1_0))", "'1_0' is found"),
        (HEAD + BOX + "(assert (<= Y_0 ٣))", "'٣' is found"),
        (HEAD + BOX + "(assert (<= Y_0 1e999))", "too large"),
        (HEAD + BOX + "(assert (<= (* Y_0 Y_1) 1))", "linear terms"),
        (HEAD + BOX + "(assert (<= Y_0 X_0))", "not of both"),
        (HEAD + BOX + "(assert (<= (+ X_0 X_1) 1)) (assert (<= Y_0 1))", "a box"),
        (HEAD + BOX, "nothing is asserted of outputs"),
        (HEAD + "(assert (<= Y_0 1))", "X_0 has no lower bound"),
        (HEAD + BOX + "(assert (or))", "one term or more"),
        (HEAD + BOX + "(assert)", "it takes declare-const"),
        (HEAD + BOX + "(define-fun f () Real 1)", "'\\(define-fun …\\)' is found"),
        (HEAD + "(declare-const X_0 Real)", "declared already"),
        ("(declare-const Z_0 Real)", "X_i or Y_j"),
        ("(declare-const X_0 Int)", "'Int' is found"),
        ("(declare-const X_1 Real) (declare-const Y_0 Real)", "X_i are declared 1 times"),
        ("(declare-const X_99999999 Real)", "numbers below"),
        ("", "Y_i|X_i are declared 0 times"),
        ("(" * 100_000, "more than 64 parentheses"),
        (HEAD + BOX + "(assert " + "(and " * 70 + "(<= Y_0 1)" + ")" * 71, "more than 64 parentheses"),
        (HEAD + BOX + "(assert (or (<= Y_0 1) (<= Y_0 2)))" * 60, "disjuncts or more; it takes 100000"),
        ('(assert (exec "import os"))', "it takes and, or"),
    ],
)
def test_hostile_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith("p.vnnlib: ")


def test_disjuncts_that_fill_the_memory_are_refused(tmp_path):
    outputs = "".join(f"(declare-const Y_{j} Real)" for j in range(1, 20_000))
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real){outputs}(assert (<= X_0 1))(assert (>= X_0 0))"
    with pytest.raises(ValueError, match="more than 134217728 numbers"):
        read(tmp_path, text + "(assert (or " + "(<= Y_0 0)" * 10_000 + "))")


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    text = "\ufeff" + (HEAD + BOX + "; no more\n(assert (<= Y_0 0)) ; (or\n").replace("\n", "\r\n")
    (prop,) = read(tmp_path, text)
    assert prop.upper.tolist() == [1, 0.25]


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "p.vnnlib"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_vnnlib(path)
    packed = tmp_path / "p.vnnlib.gz"
    packed.write_bytes(gzip.compress(b"(assert true)")[:-3])
    with pytest.raises(ValueError, match="no whole file of gzip"):
        read_vnnlib(packed)
    packed.write_bytes(b"(assert)")
    with pytest.raises(ValueError, match="no whole file of gzip"):
        read_vnnlib(packed)
    with pytest.raises(FileNotFoundError):
        read_vnnlib(tmp_path / "none.vnnlib")


def test_a_file_of_many_lines_is_read(tmp_path):
    count = 3072
    lines = [f"(declare-const X_{i} Real)" for i in range(count)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (<= X_{i} 1)) (assert (>= X_{i} 0))" for i in range(count)] + ["(assert (<= Y_0 0))"]
    (prop,) = read(tmp_path, "\n".join(lines))
    assert prop.upper.shape == (count,)
