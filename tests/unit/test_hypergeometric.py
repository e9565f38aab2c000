"""Tails of the hypergeometric distribution, beside SciPy's."""

import numpy as np
import pytest
from scipy import stats

from feedback_loop.monitoring import upper_tails


def test_tails_of_the_hypergeometric_law_are_those_of_scipy():
    random = np.random.default_rng(3)
    for drawn in (25, 50, 100):
        pool = random.integers(drawn, 20_000, 400)
        hits = np.minimum((pool * random.beta(0.5, 1, 400)).astype(int), pool)
        found = stats.hypergeom.rvs(pool, hits, drawn, random_state=4)
        far = np.clip(
            found + random.integers(-20, 21, 400), np.maximum(drawn - pool + hits, 0), np.minimum(drawn, hits)
        )
        for counts in (found, far):
            chances = random.random(400)
            law = (counts, pool, hits, drawn)
            expected = stats.hypergeom.sf(*law) + chances * stats.hypergeom.pmf(*law)
            assert upper_tails(counts, pool, hits, drawn, chances) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("drawn", "pool", "hits"), [(20_000, 900_000, 3), (20_000, 25_000, 24_997), (10**6, 10**6 + 5000, 4 * 10**5)]
)
def test_tails_of_many_rows_are_exact_for_rare_and_for_common_hits(drawn, pool, hits):
    law = stats.hypergeom(pool, hits, drawn)
    found = np.unique(np.clip(law.mean() + law.std() * np.array([-9, -2, 0, 2, 9]), *law.support()).astype(int))
    expected = law.sf(found) + 0.3 * law.pmf(found)
    same = (np.full(len(found), each) for each in (pool, hits))
    assert upper_tails(found, *same, drawn, np.full(len(found), 0.3)) == pytest.approx(expected, rel=1e-5, abs=1e-14)
