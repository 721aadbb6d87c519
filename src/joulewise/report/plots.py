"""What the plots of a report have in common: Vega-Lite specifications, drawn by its own script.

Text and grid take their colours from the page's style sheet, so that plots follow light and dark
mode.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType
from typing import Any

from joulewise.core.errors import JoulewiseError, MissingExtraError
from joulewise.core.records import write_atomic

__all__ = ["altair", "plot_script", "specification"]


def altair() -> ModuleType:
    """Return the package altair.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("altair")
    except ImportError as error:
        raise MissingExtraError("altair", "plots") from error


def specification(chart: Any) -> dict[str, Any]:  # noqa: ANN401  altair's types
    """Return an altair chart as a Vega-Lite specification as wide as its place in the page."""
    chart = chart.configure(background="transparent").configure_view(stroke=None)
    chart = chart.configure_axis(titleFontWeight="normal", titleFontSize=12)
    return dict(chart.to_dict())


def plot_script() -> str:
    """Return the JavaScript that draws a specification; it defines ``vegaEmbed``.

    To put it together takes two seconds, so it is kept in the user's cache folder.

    Raises:
        MissingExtraError: a package of the extra is not installed.
    """
    version = altair().SCHEMA_VERSION
    try:
        import platformdirs
        import vl_convert
    except ImportError as error:
        raise MissingExtraError(error.name or "vl_convert", "plots") from error
    major_minor = "_".join(str(version).split(".")[:2])
    name = f"vega-{major_minor}-{version_of('vl-convert-python')}.js"
    kept = Path(platformdirs.user_cache_dir("joulewise")) / name
    with suppress(OSError, UnicodeDecodeError):
        return kept.read_text(encoding="utf-8")
    # its stub demands a snippet; without one the function exports vegaEmbed
    script = str(vl_convert.javascript_bundle(vl_version=major_minor))  # type: ignore[call-arg]
    with suppress(OSError, JoulewiseError):  # a folder that cannot be written
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, script.encode())
    return script
