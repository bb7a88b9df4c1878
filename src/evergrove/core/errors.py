"""Every error that Evergrove raises on purpose, and the exit code that the command line gives it.

::

    EvergroveError                      1  something failed
    ├── UsageError                      2  the caller asked for something that makes no sense
    ├── ConfigError                     3  a configuration file, flag or variable is wrong
    ├── MissingDependency               4  an optional package or a piece of hardware is absent
    ├── GateRejected                    5  the golden gate refused an update
    ├── BudgetSpent                     6  the privacy budget does not allow this
    ├── Unreachable                     7  an agent, a fog or a cloud does not answer
    │   └── AgentBusy                   7  another agent owns this device
    └── InvalidInput                    1  data from outside was refused, and nothing was changed
        ├── UnknownCondition            1  a factor or a value that the vocabulary does not hold
        ├── InvalidMedia                1  an observation that cannot be used (undecodable, blank, too large)
        ├── InvalidArtefact             1  a base, adapter or golden set that fails its checks
        ├── UpdateRefused               1  a device's update that a fog does not take
        └── CorruptState                1  a log, record or pointer on disk that fails its checks

A message names what was wrong, where, and the way out.
"""


class EvergroveError(Exception):
    """Base of the tree. ``exit_code`` is what ``evergrove`` exits with."""

    exit_code = 1


class UsageError(EvergroveError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class ConfigError(EvergroveError):
    """A configuration file, flag or environment variable is wrong."""

    exit_code = 3


class MissingDependency(EvergroveError):
    """An optional package or a piece of hardware is absent; the message names how to get it."""

    exit_code = 4


class GateRejected(EvergroveError):
    """The golden gate refused an update; the message names the conditions that would be lost."""

    exit_code = 5


class BudgetSpent(EvergroveError):
    """The privacy budget does not allow this."""

    exit_code = 6


class Unreachable(EvergroveError):
    """An agent, a fog or a cloud does not answer."""

    exit_code = 7


class AgentBusy(Unreachable):
    """Another agent already owns this device; attach to it instead of starting a second one."""


class InvalidInput(EvergroveError):
    """Data from outside was refused, and nothing was changed."""


class UnknownCondition(InvalidInput):
    """A factor or a value that the vocabulary does not hold."""


class InvalidMedia(InvalidInput):
    """An observation that cannot be used. ``reason`` is the short word that events carry."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidArtefact(InvalidInput):
    """A base, adapter or golden set that fails its checks (hash, shape, dtype, finite, metadata)."""


class UpdateRefused(InvalidInput):
    """A device's update that a fog does not take. ``reason`` is the short word that events carry (``core/fog``)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CorruptState(InvalidInput):
    """A log, record or pointer on disk that fails its checks."""
