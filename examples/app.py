"""Run the demo as a ModelScope Studio: upload this file and a requirements.txt that names modelscope-ext[demo]."""

from modelscope_ext.demo import build_page, launch

if __name__ == "__main__":
    launch(build_page(), host="0.0.0.0")
