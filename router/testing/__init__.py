"""A kit for testing plugins: a clock that jumps, endpoints and exchanges by the handful, and laws to hold them to.

Uses the public API only, and no test runner: a broken law is an AssertionError with a sentence that names the law. The
same checks run over every bundled plugin.
"""

from router.testing.affinity import check_affinity
from router.testing.certificates import check_certificates
from router.testing.detector import check_detector
from router.testing.make import (
    FakeClock,
    make_attempt,
    make_candidates,
    make_endpoints,
    make_exchange,
    make_members,
    make_tools,
)
from router.testing.probe import check_probe
from router.testing.selection import check_selector
from router.testing.source import check_source

__all__ = [
    "FakeClock",
    "check_affinity",
    "check_certificates",
    "check_detector",
    "check_probe",
    "check_selector",
    "check_source",
    "make_attempt",
    "make_candidates",
    "make_endpoints",
    "make_exchange",
    "make_members",
    "make_tools",
]
