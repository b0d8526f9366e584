"""The harness's command line, which knows the model `gptoss` then."""

import sys

from gptoss.eval import harness as harness

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())
