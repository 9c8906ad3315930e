"""The root folder of the project. Programs that the tests start run in this folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
