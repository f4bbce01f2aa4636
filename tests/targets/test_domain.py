"""Distances from what a model knows, against scikit-learn's nearest neighbours."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from uniemox.errors import DataError
from uniemox.targets.domain import MAX_FEATURES, Domain, describe_domain, read_domain


def draw(count, width=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_a_distance_is_that_of_the_tenth_nearest_feature_on_the_sphere():
    train, asked = draw(50), 7 * draw(20, seed=1)
    domain = Domain.of(3 * train)
    stored = normalize(domain.features.astype(np.float64))
    found, _ = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(stored).kneighbors(normalize(asked))
    np.testing.assert_allclose(domain.distances(asked), found[:, 9], atol=1e-6)
    exact, _ = NearestNeighbors(n_neighbors=10).fit(normalize(train)).kneighbors(normalize(asked))
    np.testing.assert_allclose(domain.distances(asked), exact[:, 9], atol=1e-3)  # what fp16 costs


def test_images_that_are_nearly_the_same_have_exact_distances():
    one = draw(1)
    domain = Domain.of(np.repeat(one, 12, axis=0) + 1e-3 * draw(12, seed=2))
    stored = normalize(domain.features.astype(np.float64))
    expected = np.sort(np.linalg.norm(stored - normalize(one), axis=1))[9]
    assert domain.distances(one)[0] == pytest.approx(expected, abs=1e-7)


def test_an_image_has_the_same_distance_whatever_is_asked_beside_it():
    domain, asked = Domain.of(draw(64)), draw(9, seed=1)
    alone = [domain.distances(asked[place : place + 1])[0] for place in range(9)]
    np.testing.assert_allclose(domain.distances(asked), alone, atol=1e-7)


@pytest.mark.parametrize(("share", "cutoff"), [(0.95, 19), (0.5, 10), (0.01, 1), (0.999, 20), (0.7, 14)])
def test_the_cutoff_holds_the_share_of_val_that_was_asked_for_and_no_more(share, cutoff):
    distances = np.random.default_rng(0).permutation(np.arange(1, 21)).astype(np.float32)
    fitted = Domain.of(draw(20)).fit(distances, share)
    assert fitted.cutoff == cutoff
    flags = [answer["is_unfamiliar"] for answer in fitted.answers(distances)]
    assert flags == [distance > cutoff for distance in distances]


def test_answers_are_plain_values_by_the_names_of_the_columns():
    domain = Domain.of(draw(20)).fit(np.array([0.5], np.float32), 0.9)
    assert domain.answers(np.array([0.25, 0.75], np.float32)) == [
        {"out_of_domain": 0.25, "is_unfamiliar": False},
        {"out_of_domain": 0.75, "is_unfamiliar": True},
    ]
    assert [(column.name, column.kind) for column in domain.columns] == [
        ("out_of_domain", "number"),
        ("is_unfamiliar", "flag"),
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_have_no_distance_and_are_unfamiliar(bad):
    domain, asked = Domain.of(draw(20)).fit(np.array([2.0], np.float32), 0.9), draw(2, seed=1)
    asked[0, 3] = bad
    first, second = domain.answers(domain.distances(asked))
    assert first == {"out_of_domain": None, "is_unfamiliar": True}
    assert second["is_unfamiliar"] is False


def test_a_feature_of_zeros_has_the_distance_of_a_length():
    assert Domain.of(draw(20)).distances(np.zeros((1, 8), np.float32))[0] == pytest.approx(1)


def test_only_finite_features_are_kept_and_ten_are_needed():
    features = draw(11)
    features[4, 0] = np.nan
    assert len(Domain.of(features).features) == 10
    features[5, 0] = np.inf
    assert Domain.of(features) is None


def test_what_is_written_is_read_again():
    domain = Domain.of(draw(30)).fit(np.array([0.5], np.float32), 0.9)
    again = read_domain(domain.features, {"label_set": (0.9, 0.1, 9), **domain.to_numbers()}, width=8)
    assert (again.share, again.cutoff, again.k) == (0.9, 0.5, 10)
    np.testing.assert_array_equal(again.distances(draw(3, seed=1)), domain.distances(draw(3, seed=1)))


NUMBERS = {"domain": (0.95, 0.5, 10.0)}
UNITS = normalize(draw(20)).astype(np.float16)


@pytest.mark.parametrize(
    ("features", "numbers", "said"),
    [
        (UNITS[:, :7], NUMBERS, r"shape \(20, 7\), but must be 10 to 4096 features of 8 numbers"),
        (UNITS[:9], NUMBERS, r"shape \(9, 8\)"),
        (UNITS[0], NUMBERS, r"shape \(8,\)"),
        (np.resize(UNITS, (MAX_FEATURES + 1, 8)), NUMBERS, r"shape \(4097, 8\)"),
        (np.where(np.arange(8) == 2, np.nan, UNITS).astype(np.float16), NUMBERS, "must be finite and of length 1"),
        (UNITS * 2, NUMBERS, "must be finite and of length 1"),
        (UNITS, {}, r"numbers.domain is \[\]"),
        (UNITS, {"domain": (0.95, 0.5)}, "must be a share, a distance and a count"),
        (UNITS, {"domain": (1.0, 0.5, 10.0)}, "must be a share, a distance and a count"),
        (UNITS, {"domain": (0.95, np.nan, 10.0)}, "must be a share, a distance and a count"),
        (UNITS, {"domain": (0.95, 0.5, 0.0)}, "must be a share, a distance and a count"),
        (UNITS, {"domain": (0.95, 0.5, 21.0)}, "must be 21 to 4096 features"),
    ],
)
def test_what_a_stranger_wrote_is_refused_by_what_is_wrong(features, numbers, said):
    with pytest.raises(DataError, match=said):
        read_domain(features, numbers, width=8)


def test_a_card_says_what_the_distance_is_of():
    assert "the 10th nearest" in describe_domain(NUMBERS)
    assert "above 0.5000, within which 95 % of val lie" in describe_domain(NUMBERS)
    assert describe_domain({}) == describe_domain({"domain": (1.0,)}) == ""
