"""`python -m scaling COMMAND ...`, the same as the console command `scaling`."""

import sys

from scaling.cli import main

if __name__ == "__main__":
    sys.exit(main())
