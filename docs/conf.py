"""Configuration of the documentation's builder, Sphinx."""

import sys
from datetime import date
from pathlib import Path

import paperworks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "Paperworks"
author = "The Paperworks maintainers"
copyright = f"{date.today().year}, {author}"
release = version = paperworks.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinx_llm_friendly",
    # Ours, in _ext.
    "api_pages",
    "docstrings",
    "downloads",
    "references",
    "markdown",
    "markup",
    "methods",
    "figures",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "tutorials", "**/README.rst", "sg_execution_times.rst", "**/sg_execution_times.rst"]
suppress_warnings = ["config.cache"]  # the gallery's configuration has a function
nitpicky = True
default_role = "name"
maximum_signature_line_length = 70

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # autodoc adds the types

html_theme = "pydata_sphinx_theme"
html_title = "Paperworks"
html_static_path = ["_static", str(Path(paperworks.__file__).parent / "web/static/katex-0.19.1")]
html_css_files = ["katex.min.css", "style.css"]
html_js_files = [("katex.min.js", {"defer": "defer"}), ("mathematics.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_nav_level": 1,
    "navigation_depth": 2,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc", "markdown"],
}

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials"],
    "gallery_dirs": ["auto_tutorials"],
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "abort_on_example_error": True,
    "copyfile_regex": "",
    "capture_repr": ("_repr_html_",),  # not that of the legend which a cell ends with
}
copybutton_exclude = ".linenos, .gp, .go"
