"""`python -m minibert` is `minibert`."""

import sys

from minibert.cli import main

sys.exit(main())
