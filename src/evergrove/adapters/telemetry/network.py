"""The network: whether a link is up, and whether what goes over it is paid for by the byte.

Without D-Bus nobody tells for sure whether a link is metered. What can be read is taken: a cellular link, a phone's
hotspot as DHCP names it (``ANDROID_METERED``), a profile of NetworkManager that says so and is readable. Else it is
unknown, and ``telemetry.metered`` in the configuration is the way out.
"""

import re

from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.core.telemetry import Value

NET = "/sys/class/net"
LINKS_MAX = 16
VIRTUAL = re.compile(r"lo$|docker|br-|virbr|veth|ifb|dummy|sit|ip6|tun|tap|wg|gre|cni|flannel|cali|lxc|vmnet", re.ASCII)
"""Links to oneself, and those that need another one to reach anybody."""
CELLULAR = re.compile(r"wwan|wwp|rmnet|ppp|ccmni", re.ASCII)
HOTSPOT = "414e44524f49445f4d455445524544"
"""``ANDROID_METERED`` in hexadecimal: what a phone's hotspot says in its DHCP answer (option 43)."""
LEASES = "/run/systemd/netif/leases"
NM_DEVICES = "/run/NetworkManager/devices"
NM_PROFILES = "/etc/NetworkManager/system-connections"
PROFILES_MAX = 64
ROUTES_BYTES = 4096


class Network:
    """``network_up`` and ``network_metered``. ``metered`` is ``yes``, ``no`` or ``auto``."""

    def __init__(self, probe: Probe, metered: str = "auto") -> None:
        self._probe = probe
        self._metered = metered
        self._links: tuple[str, ...] = ()
        self._hints: dict[str, float] = {}

    def scan(self) -> None:
        """The links there are, and what is known about how each is paid for."""
        names = sorted(name for name in self._probe.names(NET) if not VIRTUAL.match(name))
        self._hints = {name: hint for name in names if (hint := self._hint(name)) is not None}
        self._links = tuple(names[:LINKS_MAX])

    def read(self, sheet: Sheet) -> None:
        """Both are 0 or 1."""
        sheet.take("network_up", self._up)
        if self._metered in ("yes", "no"):
            sheet.take("network_metered", lambda: Value(float(self._metered == "yes")))
        else:
            sheet.take("network_metered", self._guess)

    def _up(self) -> Value:
        """1 where any link is up. Some drivers of cellular links only ever say 'unknown': then their carrier tells."""
        if not self._links:
            raise Unusable("no network link")
        readable, reason, oldest_s = False, "", 0.0
        for link in self._links:
            try:
                state, age_s = self._probe.text(f"{NET}/{link}/operstate")
                state = state.strip()
                if state == "unknown":
                    state = "up" if self._probe.text(f"{NET}/{link}/carrier").text.strip() == "1" else "down"
            except Unusable as fault:
                reason = str(fault)
                continue
            if state == "up":
                return Value(1.0, age_s)
            if state in ("down", "dormant", "lowerlayerdown", "notpresent", "testing"):
                readable, oldest_s = True, max(oldest_s, age_s)
            else:
                reason = "not a state of a link"
        if not readable:
            raise Unusable(reason)
        return Value(0.0, oldest_s)

    def _guess(self) -> Value:
        """By the link that carries the default route."""
        text, age_s = self._probe.text("/proc/net/route", ROUTES_BYTES, head=True)
        links = default_links(text)
        if not links:
            raise Unusable("no default route")
        hints = [self._hints[link] for link in links if link in self._hints]
        if not hints:
            raise Unusable("nobody tells; set telemetry.metered to yes or no")
        return Value(max(hints), age_s)

    def _hint(self, link: str) -> float | None:
        """1 metered, 0 not, None unknown."""
        if CELLULAR.match(link):
            return 1.0
        number = self._probe.word(f"{NET}/{link}/ifindex")
        if not number.isdecimal():
            return None
        lease = self._look(f"{LEASES}/{number}").lower()
        if HOTSPOT in lease or "android_metered" in lease:
            return 1.0
        found = re.search(r"^connection-uuid=([0-9a-f-]{36})$", self._look(f"{NM_DEVICES}/{number}"), re.MULTILINE)
        return self._profile(found[1]) if found else None

    def _profile(self, uuid: str) -> float | None:
        """What the profile of a connection says: 1 is yes, 2 is no, anything else that nobody knows."""
        names = [name for name in sorted(self._probe.names(NM_PROFILES)) if name.endswith(".nmconnection")]
        for name in names[:PROFILES_MAX]:
            text = self._look(f"{NM_PROFILES}/{name}")
            if f"uuid={uuid}" in text.splitlines():
                found = re.search(r"^metered=([12])$", text, re.MULTILINE)
                return float(found[1] == "1") if found else None
        return None

    def _look(self, path: str) -> str:
        """The beginning of a file that may not be there or may not be ours to read."""
        try:
            return self._probe.host.read(path, 4096).decode("ascii", "replace")
        except OSError:
            return ""


def default_links(routes: str) -> tuple[str, ...]:
    """The links of the default routes in /proc/net/route, those of the lowest metric."""
    found: list[tuple[int, str]] = []
    for line in routes.splitlines()[1:]:
        cells = line.split()
        if len(cells) >= 8 and cells[1] == "00000000" and cells[7] == "00000000" and cells[6].isdecimal():
            found.append((int(cells[6][:10]), cells[0]))
    lowest = min((metric for metric, _ in found), default=0)
    return tuple(link for metric, link in found if metric == lowest)
