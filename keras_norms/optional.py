"""Modules that Keras does not bring: imported where they are used."""

import importlib
from typing import Any


def require(*modules: str, purpose: str, extra: str) -> list[Any]:
    """Imports optional modules and returns them in the same order.

    Args:
        *modules: their names.
        purpose: what needs them, for the error message.
        extra: the extra of this package that installs them.

    Raises:
        ImportError: that names the extra to install.
    """
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {error.name or modules[0]}, which cannot be imported here. Install "
            f'it with: pip install "keras-norms[{extra}]"'
        ) from error
