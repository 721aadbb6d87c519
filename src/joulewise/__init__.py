"""Give joulewise a trained model and its data; get back the version that needs the fewest joules.

The verbs are those of the command line. They are loaded when they are first used, so that
``import joulewise`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joulewise.carbon.supply import supply
    from joulewise.comparison import compare_commands, compare_models
    from joulewise.compression import compress_model
    from joulewise.core.errors import JoulewiseError
    from joulewise.core.settings import Budget, Settings, Usage
    from joulewise.meter.calibrate import calibrate
    from joulewise.meter.command import measure_command
    from joulewise.meter.window import measure
    from joulewise.pipeline import measure_model, optimize, verify
    from joulewise.tracking import log_to_mlflow

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "JoulewiseError",
    "Settings",
    "Usage",
    "__version__",
    "calibrate",
    "compare_commands",
    "compare_models",
    "compress_model",
    "log_to_mlflow",
    "measure",
    "measure_command",
    "measure_model",
    "optimize",
    "supply",
    "verify",
]

_WHERE = {
    "Budget": "joulewise.core.settings",
    "JoulewiseError": "joulewise.core.errors",
    "Settings": "joulewise.core.settings",
    "Usage": "joulewise.core.settings",
    "log_to_mlflow": "joulewise.tracking",
    "calibrate": "joulewise.meter.calibrate",
    "measure": "joulewise.meter.window",
    "compare_commands": "joulewise.comparison",
    "compare_models": "joulewise.comparison",
    "compress_model": "joulewise.compression",
    "measure_command": "joulewise.meter.command",
    "measure_model": "joulewise.pipeline",
    "optimize": "joulewise.pipeline",
    "supply": "joulewise.carbon.supply",
    "verify": "joulewise.pipeline",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'joulewise' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
