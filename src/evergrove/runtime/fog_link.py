"""A fog's link to the cloud: Flower's processes beside its service, kept running for as long as the service runs.

Devices are served whether or not the cloud can be reached, so nothing here ever ends the fog: what fails is said and
tried again, also a link that the cloud has not registered yet. A stock SuperNode whose TLS handshake was cut in the
middle lives on and asks for nothing, for good: one by which nobody has come to the fog's door for long is started anew.
"""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from evergrove.adapters.files import Files
from evergrove.core.errors import EvergroveError
from evergrove.runtime import flower
from evergrove.runtime.supervisor import Patience, Supervisor

AGAIN_S = 15.0
END_S = 15.0
log = logging.getLogger("evergrove.fog")


class CloudLink:
    """Runs in a thread of its own between ``start`` and ``stop``."""

    def __init__(self, fog: flower.Fog, files: Files, patience: Patience | None = None) -> None:
        """Makes the fog's key where there is none. Raises ``MissingDependency`` where Flower is not installed."""
        flower.need_flower()
        files.make_folder(fog.folder)
        self.public_key: Path = flower.public_key(fog.folder, files)
        self._fog, self._files, self._patience = fog, files, patience
        self._supervisor: Supervisor | None = None
        self._heard_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evergrove-link", daemon=True)

    def start(self) -> None:
        """Starts the processes; returns at once."""
        self._thread.start()

    def heard(self) -> None:
        """Somebody has come to the fog's door: the link is alive."""
        self._heard_s = time.monotonic()

    def stop(self) -> None:
        """Ends them, and returns when none is left."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._thread.ident is not None:
            self._thread.join(END_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                supernode, *others = flower.fog_programs(self._fog, self._files)
                programs = [replace(supernode, sign_s=lambda: self._heard_s), *others]
                self._supervisor = Supervisor(programs, self._fog.folder / "logs", self._patience)
                if self._stopping.is_set():  # it may have come before the supervisor was there to hear of it
                    return
                self._supervisor.run()
            except EvergroveError as fault:
                log.warning("the link to the cloud: %s; once more in %g s", fault, AGAIN_S)
                self._stopping.wait(AGAIN_S)
