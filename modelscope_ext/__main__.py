"""Run `modelscope-ext` as `python -m modelscope_ext`."""

import sys

from modelscope_ext.cli import main

sys.exit(main())
