"""Which of several systems differ, scored on the same rows: standard errors, one error rate for all pairs, and power.

The difference of two scores has the standard error

    sqrt((k * standard deviation of the difference over the resamples)^2 + sd_a^2 / S_a + sd_b^2 / S_b)

The first part is the luck of the rows (paired bootstrap: Koehn, Statistical significance tests for machine translation
evaluation, EMNLP 2004). Thresholds stay as they are in the resamples, although other rows would have given others, and
resamples of few rows spread too little. k makes up for both: it is as small as lets equal runs of one seed each be
called different in 5 % of cases at most, in simulations with known truth, whose seeds differ by noise and are equally
good (`benchmarks.honesty`, 886 rows): 1.15 with calibrated thresholds, 1.25 with those that are each label's own or
global, 1.08 with nothing chosen, which is for rare labels. The other parts are the luck of the training, with the
standard deviation over the S seeds of each; some of it is in the first part as well, so the sum is on the safe side.
For a single seed it is not known, and that of the others stands in, if there is one.

A standard deviation over two or three seeds is itself an estimate, so a difference is judged by Student's t. Its
degrees of freedom are S_a + S_b - 2 or fewer where all of the error is the luck of the seeds, and more the smaller that
part is (Satterthwaite, Biometrics Bulletin 1946; Welch, Biometrika 1947). The last table of `benchmarks.honesty` says
what that is worth.

The best is picked and then compared with all, so single comparisons at 5 % would find a "worse" one too often. The
studentised maximum over all pairs, from the same draws, keeps the error for all of them together at 5 % (Westfall and
Young, Resampling-Based Multiple Testing, 1993; Romano and Wolf, JASA 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, hypot, inf, sqrt

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from utils.scoring.bootstrap import LEVEL
from utils.scoring.thresholds import JOINT, SHRINKAGE, ThresholdRule

# k where nothing was fitted on the rows, and of each way to choose thresholds where it was.
FACTOR, FACTORS = 1.08, {"calibrated": 1.15, "global": 1.25, "per_label": 1.25}
POWER = 0.8
MOST_ROWS = 10**9  # nobody has more to compare on
# Scores are resampled in single precision: a standard error below this is that of equal predictions.
ROUNDING = 1e-6


def factor_of(rule: ThresholdRule) -> float:
    """k of predictions with thresholds that a rule chose on the rows that are scored, cross-fitted."""
    if rule.is_fixed:
        return FACTOR
    if rule.best_by in JOINT:
        return max(FACTORS.values())  # not simulated: the largest
    shrunk_less = rule.shrinkage is not None and rule.shrinkage < SHRINKAGE[rule.strategy]
    return max(FACTORS.values()) if shrunk_less else FACTORS[rule.strategy]


@dataclass(frozen=True)
class Spread:
    """A standard deviation over seeds, an estimate.

    Args:
        sd: the standard deviation.
        freedom: its degrees of freedom, the number of seeds less one.
    """

    sd: float
    freedom: int


@dataclass
class Contender:
    """A score that is compared with others on the same rows.

    Args:
        value: on all rows, mean over S seeds.
        values: of each seed on the same B resamples, `[S, B]`.
        spread: over its seeds, or of a single seed over those of others like it; None where it is not known.
        factor: k, see the module.
    """

    value: float
    values: np.ndarray
    spread: Spread | None = None
    factor: float = FACTOR

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.values)

    @property
    def seed_variance(self) -> float:
        """What the luck of the training adds to the variance of the mean, 0 where it is not known."""
        return 0.0 if self.spread is None else self.spread.sd**2 / self.seeds


@dataclass
class Difference:
    """A score minus that of another system on the same rows.

    Args:
        value: the difference.
        low: lower end of its interval, which holds for all differences of the comparison together.
        high: upper end.
        p_value: share of resamples in which chance alone makes the largest studentised difference of any pair as large
            as this one. One such resample is added, so it is never 0. It is 1 for systems that predict the same.
        standard_error: see the module.
    """

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float

    @property
    def is_distinguishable(self) -> bool:
        """Whether 0 is outside of the interval. If it is not, there may still be a difference: see `Comparison`."""
        return not self.low <= 0 <= self.high


class Comparison:
    """K systems against each other.

    Args:
        contenders: K of them.
        seed: of the draws that stand for the luck of the training.
        level: probability that all intervals hold.
    """

    def __init__(self, contenders: list[Contender], seed: int = 0, level: float = LEVEL):
        self.contenders = contenders
        deviations = np.array([one.values.mean(axis=0) for one in contenders])
        deviations = deviations - deviations.mean(axis=1, keepdims=True)
        lucks = np.random.default_rng(seed).normal(size=deviations.shape)
        lucks *= np.sqrt([one.seed_variance for one in contenders])[:, None]
        self.errors = np.zeros((len(contenders), len(contenders)))  # [K, K]
        self.maxima = np.zeros(deviations.shape[1])  # [B], of chance, if the spreads over seeds were known
        for a, b in combinations(range(len(contenders)), 2):
            chance = self._factor(a, b) * (deviations[a] - deviations[b])
            error = sqrt(chance.var(ddof=1) + contenders[a].seed_variance + contenders[b].seed_variance)
            if error > ROUNDING:
                self.errors[a, b] = self.errors[b, a] = error
                self.maxima = np.maximum(self.maxima, np.abs(chance + lucks[a] - lucks[b]) / error)
        self.quantile = float(np.quantile(self.maxima, level))

    def _factor(self, a: int, b: int) -> float:
        return max(self.contenders[a].factor, self.contenders[b].factor)

    def _freedom(self, a: int, b: int, variance: float) -> float:
        """Degrees of freedom of the variance of a difference, of which the spreads over seeds are a part."""
        pair = (self.contenders[a], self.contenders[b])
        spreads = [(one.seed_variance, one.spread.freedom) for one in pair if one.spread is not None]
        # A single seed has the spread of others, so that the two may be off together.
        return degrees_of_freedom(variance, spreads, together=any(one.seeds == 1 for one in pair))

    def _bar(self, freedom: float) -> float:
        """How many standard errors a difference has to be from 0: as seldom by chance as `quantile` of a normal one."""
        return -float(stdtrit(freedom, ndtr(-self.quantile)))

    def difference(self, a: int, b: int) -> Difference:
        """System a minus system b."""
        value, error = self.contenders[a].value - self.contenders[b].value, self.errors[a, b]
        if error == 0:  # equal predictions, but for rounding
            return Difference(value, value, value, 1.0, 0.0)
        freedom = self._freedom(a, b, error**2)
        room = self._bar(freedom) * error
        reached = (self.maxima >= -ndtri(stdtr(freedom, -abs(value) / error))).sum()
        p_value = (reached + 1) / (len(self.maxima) + 1)
        return Difference(value, value - room, value + room, float(p_value), error)

    def picked_excess(self) -> float:
        """By how much the best looks better than it is, by being picked, if all K are equally good.

        Each deviates from the common truth with the standard error of a difference divided by the square root of 2, and
        the expected maximum of K normal deviations is known: for an error of the difference of 0.010 it is 0.004 of 2
        systems, 0.008 of 5 and 0.011 of 10. If they differ much it is less.
        """
        pairs = self.errors[np.triu_indices(len(self.contenders), 1)]
        return expected_maximum(len(self.contenders)) * sqrt(float(np.mean(pairs**2)) / 2)

    def visible(self, a: int, b: int, power: float = POWER) -> float:
        """The true difference of two systems that comparisons like this one find.

        Args:
            a: number of the one.
            b: number of the other.
            power: probability to find it.
        """
        variance = float(self.errors[a, b]) ** 2
        return self._seen(variance, self._freedom(a, b, variance), power)

    def _seen(self, variance: float, freedom: float, power: float) -> float:
        """The true difference that is found, given the variance of its estimate and the degrees of freedom of that."""
        return (self._bar(freedom) + float(stdtrit(freedom, power))) * sqrt(variance)

    def _variances(self, a: int, b: int) -> tuple[float, float, list[float]]:
        """Of the difference, scaled by k: the part of the rows that no seed changes, the part of the rows that fades
        with more seeds, and the parts of the seeds of both alone; all but the first for one seed each.

        Two systems with one seed each do not tell the first two apart: all of it then counts as fading.
        """
        one, other = self.contenders[a], self.contenders[b]
        alone = np.mean([(x - y).var(ddof=1) for x in one.values for y in other.values])
        means = (one.values.mean(axis=0) - other.values.mean(axis=0)).var(ddof=1)
        left = (1 / one.seeds + 1 / other.seeds) / 2
        fading = alone if left == 1 else min(alone, (alone - means) / (1 - left))
        spreads = [each.seeds * each.seed_variance for each in (one, other)]
        factor = self._factor(a, b) ** 2
        return factor * (alone - fading), factor * fading, spreads

    def seeds_needed(self, a: int, b: int, gap: float, power: float = POWER) -> int | None:
        """Seeds of each of two systems with which a true difference of `gap` is found, on these rows.

        Args:
            a: number of the one.
            b: number of the other.
            gap: the difference.
            power: probability to find it.

        Returns:
            the number; None where no number of seeds will do.
        """
        fixed, fading, spreads = self._variances(a, b)
        room = (gap / (self.quantile + float(ndtri(power)))) ** 2 - fixed
        if room <= 0:
            return None
        enough = ceil((fading + sum(spreads)) / room * (1 - 1e-9))  # if the spreads were known

        def is_seen(number: int) -> bool:
            variance = fixed + (fading + sum(spreads)) / number
            freedom = degrees_of_freedom(variance, [(part / number, number - 1) for part in spreads if part])
            return self._seen(variance, freedom, power) <= gap * (1 + 1e-9)

        seeds = max(2 if any(spreads) else 1, enough)
        while not is_seen(seeds):
            seeds += 1
        return seeds

    def rows_needed(self, a: int, b: int, gap: float, rows: int, power: float = POWER) -> int | None:
        """Rows on which a true difference of `gap` is found with the seeds there are.

        Args:
            a: number of the one.
            b: number of the other.
            gap: the difference.
            rows: N, of the comparison.
            power: probability to find it.

        Returns:
            the number, not below N; None where no number of rows will do without more seeds.
        """
        of_seeds = self.contenders[a].seed_variance + self.contenders[b].seed_variance
        of_rows = float(self.errors[a, b]) ** 2 - of_seeds

        def is_seen(number: int) -> bool:
            # With more rows the seeds are more of the error, and the degrees of freedom fewer.
            variance = of_rows * rows / number + of_seeds
            return self._seen(variance, self._freedom(a, b, variance), power) <= gap * (1 + 1e-9)

        too_few = enough = rows
        while not is_seen(enough):
            too_few, enough = enough, 2 * enough
            if enough > MOST_ROWS:
                return None
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if is_seen(middle) else (middle, enough)
        return enough


def degrees_of_freedom(variance: float, estimates: list[tuple[float, int]], together: bool = False) -> float:
    """Those of a variance, by Satterthwaite: infinite where no part of it is an estimate.

    Args:
        variance: all of it.
        estimates: the parts that are estimates, each with its degrees of freedom.
        together: whether these come from the same seeds, so that they are off together.
    """
    errors = [part / sqrt(freedom) for part, freedom in estimates]
    error = sum(errors) if together else hypot(*errors)
    return (variance / error) ** 2 if error > 0 else inf


def widened(half_width: float, spread: Spread, seeds: int, level: float = LEVEL) -> float:
    """Half an interval over the rows and the seeds, by Student's t as in the module.

    Args:
        half_width: over the rows alone, normal.
        spread: over the seeds.
        seeds: of which the score is a mean.
        level: of both intervals.
    """
    of_seeds = spread.sd**2 / seeds
    variance = (half_width / float(ndtri((1 + level) / 2))) ** 2 + of_seeds
    freedom = degrees_of_freedom(variance, [(of_seeds, spread.freedom)])
    return float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance)


def expected_maximum(number: int) -> float:
    """The expected value of the largest of some standard normal variables."""
    x = np.linspace(-12, 12, 24_001)
    density = number * ndtr(x) ** (number - 1) * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return float(np.trapezoid(x * density, x))


def pooled_spread(spreads: list[Spread]) -> Spread | None:
    """One spread from those of several groups of seeds: the weighted mean of their variances; None of no group."""
    if not spreads:
        return None
    freedom = sum(one.freedom for one in spreads)
    return Spread(sqrt(sum(one.sd**2 * one.freedom for one in spreads) / freedom), freedom)
