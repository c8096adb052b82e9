"""Benchmarks: scripts that import each other as plain modules, also by ``-m``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
