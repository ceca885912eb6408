"""Made-up populations of texts, recipes and runs whose true scores are known exactly.

A text has, for each label, a truth and some evidence: `place * separation` plus noise, place 1 where the label is true
and 0 where it is not. A run turns evidence into a logit, adds noise of its own (the luck of its seed), and is
miscalibrated by a slope and an offset of each label, as training with `pos_weight` makes it. The noises are normal, so
that the logits of each label's positive and negative rows are normal too, or mixtures of normals, and F1 at a threshold
on infinitely many rows is a formula: the truth has no error of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from utils.scoring.predictions import Predictions

# Of the seeds' noise in logits: two runs of one recipe differ by 0.6 to 0.8 on real data.
SEED_NOISE = 0.7
PLAIN = ((1.0, 1.0),)
NONE = ((1.0, 0.0),)


@dataclass(frozen=True)
class Texts:
    """Rows drawn from a population.

    Args:
        truth: 0/1 array `[N, L]`.
        places: where the evidence lies without its noise, in units of the label's separation, `[N, L]`.
        noise: of the evidence, standard normal, `[N, L]`: what all runs get wrong together.
        groups: `[N]`, equal for near-duplicates, which have the same truth and get the same logits.
    """

    truth: np.ndarray
    places: np.ndarray
    noise: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Population:
    """Texts with L labels, and how models of them are miscalibrated.

    Args:
        prevalences: share of the rows that have a label, `[L]`.
        separations: how many standard deviations of the noise lie between evidence for and against a label, `[L]`.
        slopes: of the logits over the calibrated ones, `[L]`.
        offsets: of the logits from the calibrated ones, `[L]`.
        positives: places of the evidence of rows that have a label: pairs of share and place.
        negatives: the same of rows that do not.
        stretch: the larger, the more a hyperbolic sine pulls high and low logits apart, so that no logistic curve fits
            them; 0 for not at all.
        correlation: of the labels, and of the noise of the evidence for them: the share of a factor common to all.
        duplicated: share of the rows that stand in pairs and triples of near-duplicates.
    """

    prevalences: np.ndarray
    separations: np.ndarray
    slopes: np.ndarray
    offsets: np.ndarray
    positives: tuple[tuple[float, float], ...] = PLAIN
    negatives: tuple[tuple[float, float], ...] = NONE
    stretch: float = 0.0
    correlation: float = 0.0
    duplicated: float = 0.1

    def draw(self, rows: int, rng: np.random.Generator) -> Texts:
        """Draw texts; about `duplicated` of the rows stand in groups, as many pairs as triples."""
        groups = self._groups(rows, rng)
        shape = (groups.max() + 1, len(self.prevalences))
        truth = self._normal(shape, rng) > ndtri(1 - self.prevalences)
        places = np.where(truth, _choose(self.positives, shape, rng), _choose(self.negatives, shape, rng))
        noise = self._normal(shape, rng)
        return Texts(truth[groups].astype(np.int8), places[groups], noise[groups], groups)

    def miscalibrated(self, logits: np.ndarray) -> np.ndarray:
        """The probabilities that models give where calibrated ones would have these logits, `[..., L]`."""
        stretched = np.sinh(self.stretch * logits) / self.stretch if self.stretch else logits
        return expit(self.slopes * stretched + self.offsets)

    def _groups(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers of the groups, `[N]`, in random order."""
        in_pairs = self.duplicated * 0.4
        in_triples = self.duplicated * 0.6
        shares = np.array([1 - in_pairs - in_triples, in_pairs / 2, in_triples / 3])
        sizes = rng.choice([1, 2, 3], size=rows, p=shares / shares.sum())
        groups = np.repeat(np.arange(rows), sizes)[:rows]
        return rng.permutation(groups)

    def _normal(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Standard normal numbers with the correlation of the labels: `[N, L]`."""
        common = rng.normal(size=(shape[0], 1))
        return np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * rng.normal(size=shape)


def _choose(mixture: tuple[tuple[float, float], ...], shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Places drawn from a mixture."""
    shares, places = np.array(mixture).T
    return places[0] if len(places) == 1 else rng.choice(places, size=shape, p=shares)


@dataclass(frozen=True)
class Recipe:
    """A way to train a model of a population: its runs are equally good and differ by noise.

    Args:
        population: what it is trained for.
        strength: factor of the separations; the higher, the better are its runs.
        noise: standard deviation of a run's own noise, in logits.
    """

    population: Population
    strength: float = 1.0
    noise: float = SEED_NOISE

    @property
    def _separations(self) -> np.ndarray:
        return self.strength * self.population.separations

    def noise_of_run(self, texts: Texts, rng: np.random.Generator) -> np.ndarray:
        """What a run gets wrong on its own, in units of `noise`: `[N, L]`."""
        numbers = rng.normal(size=(texts.groups.max() + 1, texts.truth.shape[1]))
        return numbers[texts.groups]

    def probabilities(self, texts: Texts, noise: np.ndarray) -> np.ndarray:
        """What a run says of texts, given its noise as `noise_of_run` draws it: `[N, L]`."""
        population, separations = self.population, self._separations
        evidence = separations * (texts.places * separations + texts.noise - separations / 2)
        logits = logit(population.prevalences) + evidence + self.noise * noise
        return population.miscalibrated(logits)

    def run(self, texts: Texts, rng: np.random.Generator, noise: np.ndarray | None = None) -> Predictions:
        """A run's predictions of texts.

        Args:
            texts: N rows.
            rng: for the noise of the run.
            noise: that of the run, `[N, L]`; None to draw it.
        """
        noise = self.noise_of_run(texts, rng) if noise is None else noise
        labels = [f"label-{number:02d}" for number in range(texts.truth.shape[1])]
        ids = [f"{row:05d}" for row in range(len(texts.truth))]
        return Predictions(
            labels, ids, truth=texts.truth, probabilities=self.probabilities(texts, noise), groups=texts.groups
        )

    def f1(self, thresholds: np.ndarray) -> np.ndarray:
        """The true F1 of each label at thresholds `[..., L]` of the probabilities, on infinitely many rows."""
        population = self.population
        logits = (logit(thresholds) - population.offsets) / population.slopes
        return self._f1_at(
            np.arcsinh(population.stretch * logits) / population.stretch if population.stretch else logits
        )

    def _f1_at(self, logits: np.ndarray) -> np.ndarray:
        """The true F1 at thresholds of the logits before they are stretched and miscalibrated, `[..., L]`."""
        population, separations = self.population, self._separations
        spread = np.sqrt(separations**2 + self.noise**2)

        def reached(mixture: tuple[tuple[float, float], ...]) -> np.ndarray:
            means = [logit(population.prevalences) + separations**2 * (place - 0.5) for _, place in mixture]
            return sum(share * ndtr((mean - logits) / spread) for (share, _), mean in zip(mixture, means))

        hits = population.prevalences * reached(population.positives)
        predicted = hits + (1 - population.prevalences) * reached(population.negatives)
        return 2 * hits / (population.prevalences + predicted)

    def macro_f1(self, thresholds: np.ndarray | float) -> float:
        """The true macro-F1 at thresholds `[L]`, or one for all labels."""
        return float(self.f1(np.broadcast_to(thresholds, self.population.prevalences.shape)).mean())

    @property
    def best_thresholds(self) -> np.ndarray:
        """The thresholds with the best true F1 of each label, `[L]`."""
        logits = np.linspace(-9, 9, 1801)
        best = logits[self._f1_at(logits[:, None]).argmax(axis=0)]
        return self.population.miscalibrated(best)

    @property
    def best_macro_f1(self) -> float:
        """The true macro-F1 at the best thresholds there are."""
        return self.macro_f1(self.best_thresholds)

    def worse_by(self, gap: float, score: Callable[[Recipe], float]) -> Recipe:
        """A recipe whose true score is lower by `gap`, found by bisection on the strength."""
        wanted, low, high = score(self) - gap, 0.1 * self.strength, self.strength
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if score(replace(self, strength=middle)) < wanted else (low, middle)
        return replace(self, strength=high)


def made_up(lowest: float, highest: float, labels: int, **more: Any) -> Population:
    """Labels with prevalences in even steps of their logarithm, the other properties in an order of their own.

    Args:
        lowest: prevalence.
        highest: prevalence.
        labels: L.
        more: other arguments of `Population`.
    """
    rng = np.random.default_rng(labels)
    return Population(
        prevalences=np.geomspace(lowest, highest, labels),
        separations=rng.permutation(np.linspace(1.4, 2.4, labels)),
        slopes=rng.permutation(np.linspace(0.8, 1.4, labels)),
        # A weight w of the positive rows moves the ideal logit by about log w, here that of sqrt(negative / positive).
        offsets=0.5 * logit(1 - np.geomspace(lowest, highest, labels)) - 0.3 + rng.normal(0, 0.3, labels),
        **more,
    )


POPULATIONS = {
    "11 labels": made_up(0.05, 0.40, 11),
    "30 rare labels": made_up(0.01, 0.05, 30),
    "not logistic": made_up(
        0.05, 0.40, 11, positives=((0.7, 1.3), (0.3, 0.2)), negatives=((0.9, 0.0), (0.1, 0.9)), stretch=0.35
    ),
    "correlated": made_up(0.05, 0.40, 11, correlation=0.4),
}
