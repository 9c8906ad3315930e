"""Where the project is: programs that tests start run in this folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
