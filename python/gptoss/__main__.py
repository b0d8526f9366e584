"""`python -m gptoss` is the command `gptoss`."""

import sys

from gptoss.cli import main

sys.exit(main())
