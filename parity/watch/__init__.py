"""Watch an unmodified model: every tensor that its operations make, without changing a bit."""

from parity.watch.fingerprint import Fingerprint
from parity.watch.trace import Event, Number, Site, Trace, leaves_of, replay, watch

__all__ = ["Event", "Fingerprint", "Number", "Site", "Trace", "leaves_of", "replay", "watch"]
