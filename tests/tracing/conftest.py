"""Makes what these tests share importable: support.py, as `tracing_support`, before they are read."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("tracing_support", Path(__file__).with_name("support.py"))
assert _spec
assert _spec.loader
sys.modules["tracing_support"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["tracing_support"])
