"""The public names: what plugins and embedders import, and nothing else.

Cheap to import: no socket, no event loop, no aiohttp behind any of these names. The testing kit stands apart, in
router.testing.
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from router.api import (
    Affinity,
    AtEnd,
    CertificateSource,
    Control,
    Detector,
    EndpointSource,
    Factory,
    Filter,
    Foretold,
    Observer,
    Options,
    Probe,
    Register,
    Selector,
    Service,
    Tools,
)
from router.config import Duration, Share, Size
from router.errors import RouterError
from router.explanation import Explanation
from router.hooks import hookimpl
from router.model import (
    Address,
    Attempt,
    Candidates,
    Certificate,
    Eject,
    Endpoint,
    EndpointSpec,
    Exchange,
    Members,
    Note,
    Outcome,
    Response,
)
from router.status import Status
from router.watching import watch_files

__all__ = [
    "Address",
    "Affinity",
    "AtEnd",
    "Attempt",
    "Candidates",
    "Certificate",
    "CertificateSource",
    "Control",
    "Detector",
    "Duration",
    "Eject",
    "Endpoint",
    "EndpointSource",
    "EndpointSpec",
    "Exchange",
    "Explanation",
    "Factory",
    "Filter",
    "Foretold",
    "Members",
    "Note",
    "Observer",
    "Options",
    "Outcome",
    "Probe",
    "Register",
    "Response",
    "RouterError",
    "Selector",
    "Service",
    "Share",
    "Size",
    "Status",
    "Tools",
    "__version__",
    "hookimpl",
    "watch_files",
]

try:
    __version__ = _version("edge-router")
except _PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0"
