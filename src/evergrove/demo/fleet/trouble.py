"""What goes wrong while the devices learn: a fog is killed and comes back, then the line to the cloud is cut."""

from evergrove.core.errors import EvergroveError
from evergrove.demo.fleet.findings import Fault, Findings
from evergrove.demo.fleet.grove import HOST, Grove
from evergrove.demo.fleet.screen import Screen
from evergrove.demo.narrator import Narrator
from evergrove.runtime.supervisor import answers


class Trouble:
    """What goes wrong while the devices learn: a fog is killed, then the line to the cloud is cut for a while."""

    def __init__(self, found: Findings, tree: Grove, screen: Screen, narrator: Narrator) -> None:
        self._found, self._tree, self._screen, self._narrator = found, tree, screen, narrator
        self._killed_s = self._back_s = self._cut_s = self._whole_s = 0.0

    def tick(self, share: float) -> None:
        """Does what is due when ``share`` of the learning is done."""
        found, now_s = self._found, self._found.now_s
        if not self._killed_s and share > 0.1:
            pid = self._tree.kill("north")
            self._killed_s, self._screen.during = now_s, "fog north is dead"
            found.note(f"kill -9: fog north (process {pid})")
            self._narrator.tell(f"kill -9: fog north (process {pid})")
        elif self._killed_s and not self._back_s and self._back(now_s):
            self._back_s, self._screen.during = now_s, "learning"
            found.note("fog north is back")
            found.faults.append(Fault("fog north is dead", self._killed_s, now_s))
            self._narrator.tell(f"fog north came back by itself after {now_s - self._killed_s:.0f} s")
        elif self._back_s and not self._cut_s and share > 0.35:
            self._tree.cable.cut()
            self._cut_s, self._screen.during = now_s, "the cloud is cut off"
            found.note("the line between fogs and cloud is cut")
            self._narrator.tell("the line between fogs and cloud is cut")
        elif self._cut_s and not self._whole_s and now_s - self._cut_s > found.script.cut_s:
            self._mend(now_s)

    def end(self) -> None:
        """Nothing stays broken."""
        if self._cut_s and not self._whole_s:
            self._mend(self._found.now_s)
        if not (self._killed_s and self._cut_s):
            raise EvergroveError("the devices were done before anything could be broken: give them more steps")

    def _back(self, now_s: float) -> bool:
        return now_s - self._killed_s > 1.0 and answers(HOST, self._tree.ports["north"])

    def _mend(self, now_s: float) -> None:
        self._tree.cable.mend()
        self._whole_s, self._screen.during = now_s, "learning"
        self._found.note("the line is whole again")
        self._found.faults.append(Fault("the cloud is cut off", self._cut_s, now_s))
        self._narrator.tell(f"the line is whole again after {now_s - self._cut_s:.0f} s")
