"""The demo's intruders at a real fog over TLS: each is refused by the very reason that the demo claims."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lines import Line
from members import LAYOUT, TINY, tiny_plan

from evergrove.adapters.authority import Authority
from evergrove.adapters.release import Release
from evergrove.demo.fleet import rogues


@dataclass
class Gate:
    """What intruders need of a grove: where one fog is, and who may come in."""

    line: Line
    release: Release = TINY

    def authority(self, fog: str) -> Authority:
        """Its own."""
        return self.line.authority

    def url(self, fog: str) -> str:
        """Of the one."""
        return self.line.url

    def ca(self, fog: str) -> bytes:
        """By which it is known."""
        return self.line.authority.ca_pem


def test_every_intruder_is_refused_by_its_reason_and_nothing_is_counted(tmp_path: Path) -> None:
    """Poison by its numbers and its norm, a borrowed token, a stolen key; an honest device goes on."""
    line = Line(tmp_path / "north")
    try:
        line.service.open(tiny_plan(norm_max=100.0), LAYOUT)
        honest = np.full(LAYOUT.n_numbers, 30 / np.sqrt(LAYOUT.n_numbers), np.float32)
        attempts = rogues.knock(Gate(line), "north", LAYOUT, honest, tmp_path)
        assert [one.reason for one in attempts] == [one.expected for one in attempts]
        assert rogues.refused(attempts) == len(attempts) == 7
        assert {one.reason for one in attempts} == {"not finite", "enormous norm", "token of another", "revoked"}
        assert line.store.state().n_updates == 0
        client = line.join("ada")
        assert rogues.submit(Gate(line), client, LAYOUT, "ada", honest).repeated is False
        assert line.store.state().n_updates == 1
        client.close()
    finally:
        line.close()
