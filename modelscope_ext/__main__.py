"""`python -m modelscope_ext` is the command `modelscope-ext`."""

import sys

from modelscope_ext.cli import main

sys.exit(main())
