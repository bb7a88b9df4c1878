"""The measurements of one race, cell by cell of R."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrove.bench.forgetting import metrics
from evergrove.bench.forgetting.lines import cells_of
from evergrove.bench.forgetting.streams import Codes, Stream, translated
from evergrove.bench.forgetting.worlds import Judge

METRICS = (
    "fid", "kid", "fid_random", "kid_random", "density", "coverage", "accuracy", "unseen", "drift",
)  # fmt: skip
"""FID and KID on the judge's own features and on random ones; density and coverage on its own; ``accuracy``: the share
of pictures in which the oracle reads the first factor right and every value that the base did not know, ``unseen`` that
on combinations never shown; ``drift``: the mean squared change since just after the lesson, at the same noise, in the
pixels' [-1, 1] scale."""
LESS_IS_BETTER = frozenset({"fid", "kid", "fid_random", "kid_random", "drift"})


class Scores:
    """``add`` one cell after the other; ``fields`` are a line's."""

    def __init__(self, judge: Judge, stream: Stream) -> None:
        self.judge = judge
        self.stream = stream
        n = len(stream.lessons)
        self.r = {name: np.full((n + 1, n), np.nan) for name in METRICS}
        self.real = [judge.features(lesson.real.images) for lesson in stream.lessons]
        self.after: dict[int, NDArray[np.uint8]] = {}
        self.read: dict[int, list[tuple[Codes, Codes]]] = {}
        self.kept: float | None = None

    def add(self, row: int, j: int, pictures: NDArray[np.uint8]) -> None:
        """Lesson ``j``'s pictures uint8 (N, H, W, C) as they are drawn after lesson ``row``."""
        lesson = self.stream.lessons[j]
        made, real = self.judge.features(pictures), self.real[j]
        right, read, asked = self._judged(pictures, lesson.asked)
        density, coverage = metrics.density_coverage(real["own"], made["own"])
        values = {
            "fid": metrics.fid(real["own"], made["own"]),
            "kid": metrics.kid(real["own"], made["own"]),
            "fid_random": metrics.fid(real["random"], made["random"]),
            "kid_random": metrics.kid(real["random"], made["random"]),
            "density": density,
            "coverage": coverage,
            "accuracy": float(right.mean()),
            "unseen": float(right[lesson.unseen].mean()) if lesson.unseen.any() else math.nan,
            "drift": math.nan,
        }
        if row == j + 1:
            self.after[j] = pictures
        elif j in self.after:
            change = (pictures.astype(np.float64) - self.after[j]) / 127.5
            values["drift"] = float((change**2).mean())
        for name, value in values.items():
            self.r[name][row, j] = value
        if j < row:
            self.read.setdefault(row, []).append((asked[:, 0], read[:, 0]))

    def add_kept(self, pictures: NDArray[np.uint8]) -> None:
        """Pictures of what the release knew, at the end."""
        self.kept = float(self._judged(pictures, self.stream.kept)[0].mean())

    def fields(self) -> dict[str, Any]:
        """``cells``, ``frequency_kl``, ``unseen`` and ``kept`` of a line."""
        rows = range(self.r["fid"].shape[0])
        unseen = self.r["unseen"][-1]
        return {
            "cells": cells_of(self.r),
            "frequency_kl": tuple(self._frequency_kl(row) for row in rows),
            "unseen": None if np.isnan(unseen).all() else float(np.nanmean(unseen)),
            "kept": self.kept,
        }

    def _judged(self, pictures: NDArray[np.uint8], asked: Codes) -> tuple[NDArray[np.bool_], Codes, Codes]:
        oracle = self.judge.oracle
        wanted = translated(asked, self.stream.vocabulary, oracle.vocabulary)
        read = oracle.read(pictures)
        counts = asked > np.array(self.stream.base.sizes)
        counts[:, 0] = True
        return ((read == wanted) | ~counts).all(axis=1), read, wanted

    def _frequency_kl(self, row: int) -> float | None:
        pairs = self.read.get(row)
        if not pairs:
            return None
        asked, read = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return round(metrics.frequency_kl(asked, read), 6)
