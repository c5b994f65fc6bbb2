"""Lets ``python -m schuss`` do what the command ``schuss`` does."""

import sys

from .cli import main

sys.exit(main())
