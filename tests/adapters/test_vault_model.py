"""The vault against a dictionary: any sequence of puts, evictions, rotations, damage and reopenings agrees."""

import shutil
import tempfile
from pathlib import Path

from faults import Killed, killed_at
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_vault import opened, record

from evergrove.adapters.vault import Record
from evergrove.core.errors import UsageError

LIMIT = 5
NUMBERS = st.integers(1, 8)


class VaultModel(RuleBasedStateMachine):
    """``held`` is what must be served; ``maybe`` what a kill left open, until the next opening tells."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.vault = opened(self.folder, n_records_max=LIMIT)
        self.held: dict[str, Record] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(n=NUMBERS)
    def put(self, n: int) -> None:
        if record(n).id in self.held or len(self.held) < LIMIT:
            self.vault.put(record(n))
            self.held[record(n).id] = record(n)
        else:
            try:
                self.vault.put(record(n))
            except UsageError:
                return
            raise AssertionError("put beyond the limit")

    @rule(n=NUMBERS)
    def evict(self, n: int) -> None:
        self.vault.evict(record(n).id)
        self.held.pop(record(n).id, None)

    @rule(ns=st.lists(NUMBERS, max_size=3))
    def destroy(self, ns: list[int]) -> None:
        self.vault.destroy([record(n).id for n in ns])
        for n in ns:
            self.held.pop(record(n).id, None)

    @rule()
    def reopen(self) -> None:
        self.vault = opened(self.folder, n_records_max=LIMIT)

    @rule(n=NUMBERS, step=st.integers(0, 30), act=st.sampled_from(["put", "evict", "destroy"]))
    def die(self, n: int, step: int, act: str) -> None:
        """Killed in the middle of something: afterwards the record is there whole, or not at all."""
        doomed, name = opened(self.folder, files=killed_at(step + 10_000), n_records_max=LIMIT), record(n).id
        doomed._files = killed_at(step)
        done = False
        try:
            if act == "put":
                doomed.put(record(n))
            elif act == "evict":
                doomed.evict(name)
            else:
                doomed.destroy([name])
            done = True
        except (Killed, UsageError):
            pass
        self.vault = opened(self.folder, n_records_max=LIMIT)
        there = name in self.vault.ids()
        assert not done or there == (act == "put")
        if there:
            self.held[name] = record(n)
        else:
            assert act != "put" or name not in self.held
            self.held.pop(name, None)

    @rule(n=NUMBERS, position=st.floats(0, 0.999))
    def damage(self, n: int, position: float) -> None:
        """One flipped bit in one record: that record goes, whenever it is noticed."""
        path = self.folder / "vault" / f"{record(n).id}.rec"
        if path.exists():
            data = bytearray(path.read_bytes())
            data[int(position * len(data))] ^= 0x10
            path.write_bytes(data)
            assert record(n) not in list(self.vault.all())
            self.held.pop(record(n).id, None)

    @invariant()
    def agrees(self) -> None:
        assert {r.id: r for r in self.vault.all()} == self.held
        assert self.vault.ids() == sorted(self.held)


TestVaultModel = VaultModel.TestCase
TestVaultModel.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
