"""Which candidates go on."""

import itertools
import random

from torchshrink.search.halving import Standing, dominates, front, next_up, ranked


def standing(number: int, *losses: float, costs: tuple[float, ...] = (), is_waiting: bool = True) -> Standing:
    return Standing(number, losses, costs, is_waiting)


def test_one_of_three_goes_on() -> None:
    waiting = [standing(number, loss) for number, loss in enumerate((0.3, 0.2, 0.5))]
    assert next_up(waiting[:2], rungs=3, reduction=3) is None
    assert next_up(waiting, rungs=3, reduction=3) == 1
    gone_on = [waiting[0], standing(1, 0.2, 0.1, is_waiting=False), waiting[2]]
    assert next_up(gone_on, rungs=3, reduction=3) is None


def test_the_highest_rung_is_looked_at_first() -> None:
    low = [standing(number, 0.1 * number) for number in range(1, 7)]
    high = [standing(number, 0.5, 0.4 + 0.01 * number) for number in range(7, 10)]
    assert next_up([*low, *high], rungs=3, reduction=3) == 7


def test_nobody_goes_beyond_the_last_rung() -> None:
    done = [standing(number, 0.3, 0.2, 0.1) for number in range(6)]
    assert next_up(done, rungs=3, reduction=2) is None


def test_a_candidate_under_way_is_not_chosen_again() -> None:
    running = [standing(0, 0.1, is_waiting=False), standing(1, 0.2), standing(2, 0.3)]
    assert next_up(running, rungs=2, reduction=3) is None


def test_the_last_call_rounds_up() -> None:
    alone = [standing(4, 0.3)]
    assert next_up(alone, rungs=3, reduction=3) is None
    assert next_up(alone, rungs=3, reduction=3, is_last_call=True) == 4


def test_cheap_candidates_count_as_good() -> None:
    candidates = [
        standing(0, 0.10, costs=(9.0,)),
        standing(1, 0.30, costs=(1.0,)),
        standing(2, 0.20, costs=(9.5,)),
        standing(3, 0.31, costs=(1.0,)),
    ]
    assert [one.number for one in ranked(candidates, 0)] == [0, 1, 2, 3]
    assert next_up([one if one.number else standing(0, 0.1, 0.1, costs=(9.0,)) for one in candidates], 2, 2) == 1


def test_front_against_all_pairs() -> None:
    rng = random.Random(0)
    points = {number: tuple(rng.choice((1.0, 2.0, 3.0)) for _ in range(3)) for number in range(40)}
    expected = [
        number
        for number, point in points.items()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )
    ]
    assert front(points) == expected
    assert 0 < len(expected) < 40
    for one, other in itertools.permutations(points.values(), 2):
        assert not (dominates(one, other) and dominates(other, one))


def test_what_will_exceed_the_limits_comes_last() -> None:
    """However low its loss; of two that will, the nearer one first."""
    good = [standing(0, 0.3), standing(1, 0.4)]
    bad = [Standing(2, (0.1,), (), True, excess=0.5), Standing(3, (0.2,), (), True, excess=0.1)]
    assert [one.number for one in ranked([*bad, *good], 0)] == [0, 1, 3, 2]
    assert next_up([*bad, *good], rungs=2, reduction=4) == 0
