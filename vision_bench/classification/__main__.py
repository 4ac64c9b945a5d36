"""`python -m vision_bench.classification`: the command of that module, see `commands`."""

import sys

from vision_bench.classification.commands import main

if __name__ == "__main__":
    sys.exit(main())
