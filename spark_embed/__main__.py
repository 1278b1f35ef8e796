"""`python -m spark_embed`: the command, where its folder is not on the PATH."""

import sys

from spark_embed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
