"""The embedded model `demo`: where its folder is, and the text it was made from."""

from pathlib import Path

DEMO_FOLDER = Path(__file__).parent / "model"
