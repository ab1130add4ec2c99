"""The site: ``pip install '.[docs]' && sphinx-build -W -b html docs build/site``.

The pages of the manual are plain Markdown whose links work where the source is browsed. What differs on the site is done
here, as each page is read: links to files outside docs/ lead to pages made of these files, the tables of index.md become
the navigation, and index.md begins with the text of the README.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from posixpath import normpath
from typing import Any

import xent

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project, author = "xent", "The xent developers"
version = release = xent.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
smartquotes = False
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4

# Docstrings: a name in backticks is a link where there is such a name, and types are in the text.
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
python_maximum_signature_line_length = 80


class StandIn(type):
    """A class that has every attribute, another one: it can be inherited, called, and decorate."""

    def __new__(cls, name: str, bases: Any = (), members: Any = None) -> Any:
        given = {"__init__": lambda *_, **__: None, "__getattr__": lambda _, name: StandIn(name)}
        return super().__new__(cls, name, bases, given if members is None else members)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(name)


# Whether these libraries are installed or not, pages are the same.
for name in (
    *("dask", "dask.array", "dask.base", "dask.delayed", "dask.highlevelgraph"),
    *("jax", "mpi4py", "torch", "torch.autograd", "torch.nn"),
):
    sys.modules[name] = StandIn(name)
sys.modules["jax"].__version_info__ = (99,)

# Whatever a page needs is among the files of the site: none asks another host for anything.
html_theme = "furo"
html_title = "xent"
html_favicon = "_static/icon.svg"
html_copy_source = False
html_css_files = ["style.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#08519c", "color-brand-content": "#08519c"},
    "dark_css_variables": {"color-brand-primary": "#9ecae1", "color-brand-content": "#9ecae1"},
}
# The one file of MathJax that draws formulas without fonts.
MATHJAX = Path(import_module("sphinx-mathjax-offline").__path__[0], "static/mathjax")
html_static_path = ["_static", str(MATHJAX / "tex-svg.js")]
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}
# Prompts and what a command prints are not copied.
copybutton_exclude = ".linenos, .gp, .go"

# Files outside docs/ that the site has pages of, and the pages, by the links that lead to them.
TEXTS = {"CONTRIBUTING.md": "outside/contributing", "CHANGELOG.md": "outside/changelog"}
LISTINGS = {
    str(path.relative_to(ROOT)): f"outside/{path.name}"
    for path in (ROOT / "csrc/xent.h", DOCS / "plots.py", *sorted(ROOT.glob("examples/*.py")))
}
PAGES = {**TEXTS, **LISTINGS, "README.md": "index", "README.md#quick-start": "outside/quick_start"}


def with_links(text: str, folder: str = "docs") -> str:
    """Return Markdown of a folder of the source with links that lead to the pages of the site."""

    def of_site(link: re.Match[str]) -> str:
        name, target = link.groups()
        file, mark, anchor = target.partition("#")
        if re.fullmatch(r"\[(docs/)?\w+\.(md|rst)\]", name):
            name = "[]"  # the title of the page instead of its file
        path = normpath(f"{folder}/{file}")
        if not file or not (ROOT / path).exists():
            return link[0]
        if target := PAGES.get(path + mark + anchor):
            return f"{name}(/{target}.md)"
        if target := PAGES.get(path):
            return f"{name}(/{target}.md{mark}{anchor})"
        path = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        if not name.startswith("!"):
            return f"{name}(/{path}{mark}{anchor})"
        drawing = (DOCS / path).read_text(encoding="utf-8")
        if "<a " in drawing:
            return f"```{{raw}} html\n:file: {path}\n```"
        # Charts change their colours in dark mode, photographs do not; on a phone, wide ones scroll.
        kind = ".photograph" if "<image" in drawing else ".chart"
        width = re.search(r'<svg[^>]* width="([\d.]+)pt"', drawing)
        kind += " .wide" if width and float(width[1]) > 400 else ""
        return f"{name}(/{path}){{{kind}}}"

    return re.sub(r"(!?\[[^]]*\])\((?!\w+:)([^)\s]+)\)", of_site, text)


def with_functions(text: str, prefix: str = "xent[.]") -> str:
    """Return Markdown in which the names of public functions lead to their pages."""

    def of_page(name: re.Match[str]) -> str:
        page = f"api/xent.{name[1].removeprefix('xent.')}.rst"
        return f"[{name[0]}](/{page})" if (DOCS / page).exists() else name[0]

    # Not where a link begins, and not in headings, whose anchors are made of their text.
    names = re.compile(rf"(?<![`\[])`({prefix}[\w.]+)`(?!`)")
    lines = text.split("\n")
    return "\n".join(x if x.startswith("#") else names.sub(of_page, x) for x in lines)


def navigation(manual: str) -> str:
    """Return index.md with each of its tables as a group of the navigation, too."""

    def group(section: re.Match[str]) -> str:
        pages = re.findall(r"^\| \[[^]]*\]\(/([^)]+)\.\w+\)", section[0], re.MULTILINE)
        lines = [":hidden:", f":caption: {section[1]}", "", *(f"/{page}" for page in pages)]
        return "\n".join([f"#{section[0]}```{{toctree}}", *lines, "```", "", ""])

    manual = re.sub(r"^## (.+)\n(?:(?!## ).*\n)*", group, manual, flags=re.MULTILINE)
    return manual.replace("# The manual", "## The manual", 1)


def read(app: Any, page: str, source: list[str]) -> None:
    """Change a page of the manual into one of the site."""
    if app.env.doc2path(page).suffix != ".md":
        return
    source[0] = with_functions(with_links(source[0]))
    if page == "index":
        app.env.note_dependency(ROOT / "README.md")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        readme = with_functions(with_links(readme, "."))
        # The first column of the functions has names alone.
        readme = re.sub(
            r"^\| `.*?(?= \| )",
            lambda names: with_functions(names[0], ""),
            readme,
            flags=re.MULTILINE,
        )
        source[0] = f"{readme}\n{navigation(source[0])}"


def write_pages(app: Any, config: Any) -> None:
    """Make pages of files outside docs/."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = readme.index("## Install\n"), readme.index("## Speed\n")
    pages = {"outside/quick_start": "# Quick start\n\n" + with_links(readme[start:end], ".")}
    for file, page in TEXTS.items():
        pages[page] = with_links((ROOT / file).read_text(encoding="utf-8"), ".")
    for file, page in LISTINGS.items():
        language = "c" if file.endswith(".h") else "python"
        lines = [f"```{{literalinclude}} /../{file}", ":class: listing", f":language: {language}"]
        lines = ["---", "orphan: true", "hide-toc: true", "---", f"# {file}", "", *lines, "```", ""]
        pages[page] = "\n".join(lines)
    (DOCS / "outside").mkdir(exist_ok=True)
    for page, text in pages.items():
        path = DOCS / f"{page}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def escape_initials(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Let a line that begins with the initial of an author, or C, be no list."""
    lines[:] = [re.sub(r"^(\s*(?:\.\. \[[\w-]+\] )?[A-Z])\. ", r"\1\\. ", line) for line in lines]


def add_script(app: Any, page: str, template: str, context: Any, tree: Any) -> None:
    """Load the script of the interactive figures where there are any."""
    if 'class="explore' in context.get("body", ""):
        app.add_js_file("explore.js", loading_method="defer")


def setup(app: Any) -> None:
    app.connect("config-inited", write_pages)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", escape_initials, priority=900)
    app.connect("html-page-context", add_script)
