"""A training job that stops and goes on while an app keeps observing: the same job, less what was lost meanwhile."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.vault import Vault
from evergrove.bootstrap import make_device, read_identity, read_release
from evergrove.core.config import Learn
from evergrove.core.jobs import Train
from evergrove.runtime import tasks
from evergrove.runtime.keeper import Keeper
from evergrove.sim.real import Unpaced

from .conftest import new_condition, strange_pictures


class Until(Unpaced):
    """Pauses after ``n`` micro-batches, as when the agent is gone."""

    def __init__(self, n: int) -> None:
        self.left = n

    def micro_batch(self, rows: int) -> int:
        """All rows, while there are any left to give."""
        self.left -= 1
        return rows if self.left >= 0 else 0


def test_a_job_goes_on_from_its_checkpoint_though_the_buffer_has_changed(tmp_path: Path) -> None:
    """One more picture kept, one evicted, a new word learnt, another way to learn: each made the next start fail."""
    root = tmp_path / "device"
    identity = make_device(root, "tiny", "")
    release = read_release(root, read_identity(root))
    (factor, value), *_ = new_condition().items()
    vocabulary = release.manifest.vocabulary.extend({factor: value})
    vault = Vault(root / "vault", identity.device, FileKey(root / "device.key"))
    vault.save_names(vocabulary)
    keeper = Keeper(vault, release.manifest.vocabulary.sizes)
    pictures = strange_pictures(7)

    def keep(picture: int) -> str:
        pixels, condition = pictures[picture], {factor: value}
        record, _ = keeper.receive(encode_png(pixels), pixels, condition, vocabulary.encode(condition), 0.0)
        keeper.store(record, "train", "kept")
        return record

    fresh = tuple(keep(picture) for picture in range(6))
    learn = Learn(strategy="replay", steps=6, batch=4, checkpoint_every=1)
    job, folder = Train(str(root), str(release.folder), None, fresh, learn, 0), root / "jobs" / "job-00001"
    folder.mkdir(parents=True)
    with pytest.raises(SystemExit, match="paused"):
        tasks.train(job, folder, Until(4), lambda *_: None)

    keep(6)
    keeper.evict(fresh[:1])
    vault.save_names(vocabulary.extend({factor: "stranger still"}))
    rest, entered = Until(100), replace(job, learn=replace(learn, strategy="shared", rate=0.01))
    trained = tasks.train(entered, folder, rest, lambda *_: None)
    assert trained.steps == 6
    assert 100 - rest.left < 6
