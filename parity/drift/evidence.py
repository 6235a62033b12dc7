"""What is kept of a report that is held against others, and of a row of them."""

import dataclasses
from collections.abc import Mapping, Sequence

from parity.fingerprints import Fingerprint
from parity.results import Verdict


@dataclasses.dataclass(frozen=True)
class Worst:
    """The worst number of a report, and where it is.

    Attributes:
        value: The number, infinite where one could not be had; None where there is none to be had.
        tap: Its tap.
    """

    value: float | None = None
    tap: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One report.

    Attributes:
        check: The verb that made it.
        verdict: Its answer.
        environment: Versions and settings that it was made under.
        code: Version and digest of the code.
        about: What was compared: weights, config, inputs, and how much of it was planned. Only
            reports in which all of it is the same can be held against each other.
        identity: The largest error of a float64 row that is held to the identity bound.
        ratio: The largest ratio of our rounding to Hugging Face's.
        why: What kept it from being a pass.
        fingerprints: In network order; empty where none were asked for.
    """

    check: str
    verdict: Verdict
    environment: Mapping[str, str]
    code: str
    about: Mapping[str, str]
    identity: Worst = Worst()
    ratio: Worst = Worst()
    why: str = ""
    fingerprints: Sequence[Fingerprint] = ()

    @property
    def made_under(self) -> dict[str, str]:
        """Versions and settings, and the code."""
        return {**self.environment, "code": self.code}


@dataclasses.dataclass(frozen=True)
class EvidenceRow:
    """What one environment left: a report of each check.

    Attributes:
        label: The row's name.
        reports: By check; empty where the row was not run.
    """

    label: str
    reports: Mapping[str, Evidence]

    @property
    def environment(self) -> dict[str, str]:
        """What its reports were made under, the code included."""
        found: dict[str, str] = {}
        for report in self.reports.values():
            found = report.made_under | found
        return found
