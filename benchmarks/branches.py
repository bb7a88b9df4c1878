"""A device whose base knows one factor, lesson after lesson: a B of its own for each condition against one B for all.

    evergrove base train digits-base --data digits/known      # as in the README: 0 to 7
    evergrove base adapt-basis digits-base
    python benchmarks/branches.py digits-base --out runs/branches

Everything goes through ``eg.Device``: a device is shown 8, learns, is shown 9, learns, and answers for all digits that
it knows before and after each lesson. A reader trained on all of scikit-learn's digits says what the pictures show. Two
devices see the same pictures and differ in ``learn.strategy`` alone: ``evergrove`` makes branches here, and takes no
more steps than its few pictures bear. One JSON line a lesson.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

import evergrove as eg
from evergrove.adapters.release import open_release
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.learn.oracle import Oracle, train_oracle

Pictures = NDArray[np.uint8]
LESSONS = ("8", "9")
STRATEGIES = ("evergrove", "shared")
N_SHOWN, N_DRAWN = 120, 48


def digits(n_px: int) -> tuple[Pictures, NDArray[np.int16]]:
    """All pictures (N, H, W, 3) at the release's size, and their codes (N, 1): digit + 1."""
    found = load_digits()
    raw = np.rint(found.images * (255 / 16)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(one).resize((n_px, n_px), Image.Resampling.BICUBIC)) for one in raw]
    return np.repeat(np.stack(images)[..., None], 3, axis=3), (found.target[:, None] + 1).astype(np.int16)


def drawn(device: eg.Device, known: list[str]) -> dict[str, Pictures]:
    """``N_DRAWN`` pictures of every digit that the device has heard of, the same seeds each time."""
    return {one: np.stack([device.generate({"digit": one}, seed=s).array for s in range(N_DRAWN)]) for one in known}


def right(oracle: Oracle, pictures: dict[str, Pictures]) -> dict[str, float]:
    """How many pictures of each digit are read as that digit."""
    return {one: float((oracle.read(images)[:, 0] == int(one) + 1).mean()) for one, images in pictures.items()}


def one_device(
    folder: Path, release: Path, strategy: str, steps: int, seed: int, oracle: Oracle
) -> list[dict[str, object]]:
    """The device's whole life; a line after each lesson."""
    learn = f'[learn]\nauto = false\nsteps = {steps}\nstrategy = "{strategy}"\n'
    config = f"seed = {seed}\n{learn}[placement]\nenabled = false\n"
    images, codes = digits(open_release(release).manifest.image_px)
    found: list[dict[str, object]] = []
    with eg.Device.create(folder, str(release), config) as device:
        known = [str(n) for n in range(8)]
        before = base = drawn(device, known)
        for lesson in LESSONS:
            rows = np.flatnonzero(codes[:, 0] == int(lesson) + 1)
            for row in np.random.default_rng([seed, int(lesson)]).permutation(rows)[:N_SHOWN]:
                device.observe(images[row], {"digit": lesson})
            started_s = time.monotonic()
            result = device.learn()
            took_s = time.monotonic() - started_s
            device.wait_idle()
            known = [*known, lesson] if result.verdict == "accepted" else known
            after = drawn(device, known)
            read = right(oracle, after)
            changed = {
                one: float((after[one] != pictures).any(axis=(1, 2, 3)).mean()) for one, pictures in before.items()
            }
            version = Path(device.root) / "versions" / f"{device.status().active}.safetensors"
            found.append(
                {
                    "strategy": strategy, "seed": seed, "steps": steps, "lesson": lesson, "verdict": result.verdict,
                    "sentence": result.sentence, "learn_s": round(took_s, 1), "right": read,
                    "right_old": float(np.mean([read[one] for one in base])),
                    "right_old_before": float(np.mean(list(right(oracle, base).values()))),
                    "pictures_changed": changed, "n_bytes": version.stat().st_size if version.exists() else 0,
                }
            )  # fmt: skip
            before = after
        device.close(stop_agent=True)
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("release", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/branches"))
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    images, codes = digits(open_release(asked.release).manifest.image_px)
    oracle = train_oracle(Vocabulary((Factor("digit", tuple("0123456789")),)), images, codes, 600)
    print(json.dumps({"read right, real pictures": float((oracle.read(images) == codes).mean())}))
    for seed in range(asked.seeds):
        for strategy in asked.strategies:
            folder = asked.out / f"{strategy}-{seed}-{int(time.time())}"
            for line in one_device(folder, asked.release.absolute(), strategy, asked.steps, seed, oracle):
                print(json.dumps(line), flush=True)
                with (asked.out / "lines.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
