"""What devices say of releases, on its way to the cloud: each word once, in the order in which it came."""

import sqlalchemy as sa

from evergrove.adapters import fog_database as db
from evergrove.core.rollout import DeviceReport, Mark

AT_ONCE_MAX = 1000
OF_DEVICE_MAX = 256
"""Words of one device that are kept; the oldest make room."""
_R = db.REPORTS.c


class Reports:
    """A table of a fog's database."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def add(self, device: str, rollout: str, mark: Mark, shadow: bool) -> None:
        """Keeps a word, once. Positions are given under the writers' lock, so none appears behind one that was read."""
        row = {"device": device, "rollout": rollout, "mark": mark, "shadow": shadow}
        mine = _R.device == device
        with self._database.writing() as (link, _):
            known = sa.select(_R.position).where(mine, _R.rollout == rollout, _R.mark == mark, _R.shadow == shadow)
            if link.execute(known).first() is not None:
                return
            link.execute(db.REPORTS.insert().values(**row))
            kept = sa.select(_R.position).where(mine).order_by(_R.position.desc()).limit(OF_DEVICE_MAX)
            oldest = min(link.execute(kept).scalars())
            link.execute(db.REPORTS.delete().where(mine, _R.position < oldest))

    def after(self, position: int, n_max: int = AT_ONCE_MAX) -> list[DeviceReport]:
        """The words after this position, in order."""
        asked = sa.select(_R.position, _R.device, _R.rollout, _R.mark, _R.shadow).where(_R.position > position)
        with self._database.reading() as link:
            rows = link.execute(asked.order_by(_R.position).limit(n_max)).all()
        return [DeviceReport(*row) for row in rows]
