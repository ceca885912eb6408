"""What a program of this folder is told: a JSON file of settings, and the rows that it names."""

import json
import sys
from pathlib import Path


def read_settings():
    """`(settings, train, validation)`: the rows are `{"texts": [N], "labels": [N][L]}`."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    train, validation = (json.loads(Path(settings[name]).read_text()) for name in ("train", "validation"))
    return settings, train, validation
