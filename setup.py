"""Install everything, or with `MODELSCOPE_EXT_LIGHT=1 pip install .` only what `denoise` and `stream` need.

The metadata are in setup.cfg. A light install needs its `install_requires`, the whole one also its extra `full`.
"""

import os

from setuptools import Distribution, setup


class _Distribution(Distribution):
    def parse_config_files(self, *args, **kwargs) -> None:
        super().parse_config_files(*args, **kwargs)
        if os.environ.get("MODELSCOPE_EXT_LIGHT"):
            self.metadata.version += "+light"  # its wheel has another name than that of the whole one
        else:
            needed = [*self.install_requires, *self.extras_require["full"]]
            self.install_requires = self.metadata.install_requires = needed


setup(distclass=_Distribution)
