from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.decisions.change import start_error_monitor
from feedback_loop.decisions.ranks import start_rank_monitor


def grouped(labels, cuts):
    places = sorted({0, len(labels), *(cut for cut in cuts if cut < len(labels))})
    return [labels[start:end] for start, end in pairwise(places)]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 800), max_size=8), st.sampled_from(["error", "rank"]))
def test_any_grouping_of_the_same_labels_gives_the_same_monitor(seed, cuts, kind):
    random = np.random.default_rng(seed)
    reference, coming = random.beta(1, 5, 1500), random.beta(1, 4, 800)
    if kind == "error":
        monitor = start_error_monitor((reference > 0.3).astype(float), alpha=0.05, seed=seed)
        coming = (coming > 0.3).astype(float)
    else:
        monitor = start_rank_monitor(reference, alpha=0.05, seed=seed)
    at_once, piecemeal = monitor.update(coming), monitor
    for part in grouped(coming, cuts):
        piecemeal = piecemeal.update(part)
    assert piecemeal == at_once
