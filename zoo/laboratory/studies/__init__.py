"""The studies: one module each, with its runs, claims and criteria as data in `STUDY`."""

import importlib
import pkgutil

from zoo.laboratory.study import Study


def studies() -> dict[str, Study]:
    """All studies by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.STUDY for name, module in modules.items() if hasattr(module, "STUDY")}
