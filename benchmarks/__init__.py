"""Benchmarks: scripts that import each other as plain modules, also with ``-m``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
