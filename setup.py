"""Install everything, or with `MODELSCOPE_EXT_LIGHT=1 pip install .` only what `denoise` and `stream` need.

The metadata are in setup.cfg. A light install needs its `install_requires`, the whole one also its extra `full`.
`MODELSCOPE_EXT_URL=https://… python -m build` names the repository: an index then shows the README's pictures.
"""

import os
import re

from setuptools import Distribution, setup


class _Distribution(Distribution):
    def parse_config_files(self, *args, **kwargs) -> None:
        super().parse_config_files(*args, **kwargs)
        if os.environ.get("MODELSCOPE_EXT_LIGHT"):
            self.metadata.version += "+light"  # its wheel has another name than that of the whole one
        else:
            needed = [*self.install_requires, *self.extras_require["full"]]
            self.install_requires = self.metadata.install_requires = needed
        if url := os.environ.get("MODELSCOPE_EXT_URL", "").rstrip("/"):
            self.metadata.project_urls = {"Repository": url, "Changes": f"{url}/blob/main/CHANGELOG.md"}
            text = re.sub(r"(!\[[^]]*]\()(?!\w+:)", rf"\1{url}/raw/main/", self.metadata.long_description)
            self.metadata.long_description = re.sub(r"(]\()(?!\w+:|#)", rf"\1{url}/blob/main/", text)


setup(distclass=_Distribution)
