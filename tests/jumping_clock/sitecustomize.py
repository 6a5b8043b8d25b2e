"""Let the wall clock of a Python process jump by up to a day at each call. The monotonic clock is not changed.

Python imports this module at its start if this folder is in PYTHONPATH.
"""

import datetime
import itertools
import time

_DAYS = itertools.cycle((0, 86_400, -86_400, 3_600, -7_200))
_time = time.time
_datetime = datetime.datetime


def jumping_time():
    return _time() + next(_DAYS)


class JumpingDatetime(_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumping_time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)


time.time = jumping_time
time.time_ns = lambda: int(jumping_time() * 1e9)
datetime.datetime = JumpingDatetime
