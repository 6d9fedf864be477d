"""Comparators: what is the same is 0, whatever it is; what differs is as the kind says."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.catalog import Tensor
from modelyard.errors import InvalidArgument
from services.shadow.comparators import Reservoir, choose, parse, refine
from services.shadow.comparators.kinds import Quantile, compare

KINDS = [
    {"kind": "exact"},
    {"kind": "numeric"},
    {"kind": "numeric", "per": "element"},
    {"kind": "top_k", "k": 2},
    {"kind": "probabilities"},
    {"kind": "probabilities", "distance": "hellinger"},
    {"kind": "probabilities", "logits": True},
    {"kind": "ranking"},
    {"kind": "embedding"},
]
scores = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(0, 1, width=32),
)


@pytest.mark.parametrize("tree", KINDS, ids=str)
@given(one=scores, seed=st.integers(0, 1000))
def test_differences_are_bounded_zero_for_the_same_and_rows_stand_for_themselves(tree, one, seed):
    comparator = parse("y", tree)
    other = np.random.default_rng(seed).random(one.shape)
    found = compare(comparator, one, other)
    assert found.shape == (len(one),)
    assert ((found >= 0) & (found <= 1)).all()
    if one.sum(axis=1).all():
        np.testing.assert_allclose(compare(comparator, one, one.copy()), 0, atol=1e-6)
    order = np.random.default_rng(seed).permutation(len(one))
    np.testing.assert_allclose(compare(comparator, one[order], other[order]), found[order])


@pytest.mark.parametrize(
    ("tree", "one", "other", "expected"),
    [
        ({"kind": "exact"}, [[1, 2], [3, 4]], [[1, 2], [3, 5]], [0, 1]),
        ({"kind": "exact"}, [[np.nan], [np.inf]], [[np.nan], [-np.inf]], [0, 1]),
        (
            {"kind": "numeric", "absolute": 0.1, "relative": 0},
            [[1.0], [1.0]],
            [[1.05], [1.2]],
            [0, 1],
        ),
        (
            {"kind": "numeric", "absolute": 0, "relative": 0.1},
            [[10.0], [1.0]],
            [[10.9], [1.2]],
            [0, 1],
        ),
        ({"kind": "numeric", "per": "element"}, [[1.0, 2.0]], [[1.0, 3.0]], [0.5]),
        (
            {"kind": "numeric"},
            [[np.nan], [1.0], [np.inf]],
            [[np.nan], [np.nan], [np.inf]],
            [0, 1, 0],
        ),
        ({"kind": "top_k"}, [[0.1, 0.9], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]], [0, 1]),
        ({"kind": "top_k", "k": 2}, [[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]], [0.5]),
        ({"kind": "top_k", "k": 9}, [[3.0, 2.0, 1.0]], [[1.0, 2.0, 3.0]], [0]),
        ({"kind": "probabilities"}, [[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]], [1, 0]),
        ({"kind": "probabilities"}, [[2.0, 2.0]], [[7.0, 7.0]], [0]),
        ({"kind": "probabilities", "distance": "hellinger"}, [[1.0, 0.0]], [[0.0, 1.0]], [1]),
        ({"kind": "probabilities"}, [0.0, 0.3], [1.0, 0.3], [1, 0]),
        ({"kind": "probabilities"}, [[0.0, 0.0]], [[0.5, 0.5]], [1]),
        ({"kind": "ranking"}, [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], [1]),
        ({"kind": "ranking"}, [[1.0, 1.0, 1.0]], [[3.0, 2.0, 1.0]], [0.5]),
        ({"kind": "embedding"}, [[1.0, 0.0], [1.0, 0.0]], [[-2.0, 0.0], [0.0, 3.0]], [1, 0.5]),
        ({"kind": "embedding"}, [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]], [0, 1]),
    ],
)
def test_what_each_kind_says(tree, one, other, expected):
    found = compare(parse("y", tree), np.asarray(one), np.asarray(other))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def texts(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_texts():
    one, other = texts(b"A  cat", b"dog", "x"), texts(b"a cat", b"dot", "x")
    assert compare(parse("y", {"kind": "text"}), one, other).tolist() == [1, 1, 0]
    folded = parse("y", {"kind": "text", "ignore_case": True, "ignore_space": True})
    assert compare(folded, one, other).tolist() == [0, 1, 0]
    ratio = compare(parse("y", {"kind": "text", "by": "ratio"}), one, other)
    assert 0 < ratio[1] < 0.5


def test_units_in_the_last_place():
    one = np.float32([1.0, 1000.0])
    other = np.nextafter(one, np.float32(np.inf))
    strict = {"kind": "numeric", "absolute": 0, "relative": 0}
    assert compare(parse("y", strict), one, other).tolist() == [1, 1]
    assert compare(parse("y", {**strict, "ulp": 1}), one, other).tolist() == [0, 0]


def test_another_shape_or_type_differs_wholly():
    comparator = parse("y", {"kind": "numeric"})
    one = np.ones((3, 2))
    assert compare(comparator, one, None).tolist() == [1, 1, 1]
    assert compare(comparator, one, np.ones((2, 2))).tolist() == [1, 1, 1]
    assert compare(comparator, one, np.ones((3, 2), int)).tolist() == [1, 1, 1]
    assert compare(comparator, np.ones((0, 2)), np.ones((0, 2))).tolist() == []
    assert compare(comparator, np.float32(1.0).reshape(()), np.float32(2.0).reshape(())) == [1.0]


def test_ranks_do_not_care_for_scales():
    comparator, rng = Quantile(warm_up=10), np.random.default_rng(0)
    ours, theirs = Reservoir(), Reservoir()
    scores = rng.normal(size=500)
    assert comparator.ranked(scores[:1], scores[:1], ours, theirs).tolist() == [0]
    ours.add(scores)
    theirs.add(np.exp(3 * scores))
    same = comparator.ranked(scores, np.exp(3 * scores), ours, theirs)
    assert same.max() < 1e-9
    turned = comparator.ranked(scores, np.exp(-3 * scores), ours, theirs)
    assert turned.mean() > 0.2


def test_a_reservoir_is_a_fair_sample_and_goes_on_after_a_restart():
    one, other = Reservoir(50), Reservoir(50)
    one.add(range(1000))
    other.add(range(500))
    other = Reservoir.restore(json.loads(json.dumps(other.state())))
    other.add([*range(500, 1000), float("nan"), float("inf")])
    assert one.values == other.values
    assert one.count == other.count == 1000
    assert 300 < one.quantile(0.5) < 700
    assert one.rank(-1) == 0
    assert one.rank(2000) == 1


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"kind": "magic"}, "comparators.y.kind"),
        ({}, "comparators.y.kind"),
        ({"kind": "top_k", "k": 0}, "comparators.y.k: Input should be greater than or equal to 1"),
        ({"kind": "numeric", "absolut": 1}, "comparators.y.absolut: Extra inputs"),
        ({"kind": "numeric", "relative": "x"}, "comparators.y.relative"),
    ],
)
def test_a_wrong_setting_is_named(tree, complaint):
    with pytest.raises(InvalidArgument) as fault:
        parse("y", tree)
    assert complaint in fault.value.message


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (Tensor("label", "INT64", ("N",)), "exact"),
        (Tensor("label", "BYTES", ("N",)), "text"),
        (Tensor("probabilities", "FP32", ("N", 3)), "probabilities"),
        (Tensor("logits", "FP32", ("N", 3)), "probabilities"),
        (Tensor("scores", "FP32", ("N", 3)), "top_k"),
        (Tensor("embedding", "FP32", ("N", 384)), "embedding"),
        (Tensor("y", "FP32", ("N", 1)), "numeric"),
        (Tensor("y", "FP32", ("N", 3)), "numeric"),
    ],
)
def test_a_comparator_is_found_from_the_signature(tensor, kind):
    chosen = choose(tensor)
    assert chosen.comparator.kind == kind
    assert chosen.why


def test_a_first_answer_refines_the_choice():
    plain = choose(Tensor("y", "FP32", ("N", "")))
    rng = np.random.default_rng(0)
    rows = rng.random((4, 3))
    assert refine(plain, rows).comparator.kind == "numeric"
    assert refine(plain, rows / rows.sum(axis=1, keepdims=True)).comparator.kind == "probabilities"
    vectors = rng.normal(size=(4, 32))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert refine(plain, unit).comparator.kind == "embedding"
    assert refine(plain, np.zeros((0, 3))).comparator.kind == "numeric"
    label = choose(Tensor("y", "INT64", ("N",)))
    assert refine(label, np.ones((2, 2))) is label
