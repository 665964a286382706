"""Code of the user's own that a setting names as package.module:name. Files must not name any, see `preset_files`."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from cliptea.errors import ConfigError

__all__ = ["backbone_is_code", "find_code", "names_code", "source_of"]

CODE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


def names_code(setting: str) -> bool:
    """Whether a data set is package.module:name. Even checking it would run code, so files must not name one."""
    return ":" in setting


def backbone_is_code(setting: str) -> bool:
    """The same for a backbone, which can also be an encoder of timm."""
    return names_code(setting) and not setting.startswith("timm:")


def find_code(setting: str, what: str, form: str) -> tuple[str, str]:
    """Module and name of "package.module:name". The module is found, and not imported.

    Args:
        what: what it is for, such as "backbone".
        form: of the setting, such as "package.module:function".

    Raises:
        ConfigError: the setting has another form, or the module does not exist.
    """
    match = CODE.fullmatch(setting)
    if match is None:
        raise ConfigError(f"cannot read the {what} {setting!r}", form)
    module = match["module"]
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # importing the parent packages runs their code
        if not (isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}.")):
            raise ConfigError(
                f"cannot import the {what} {setting!r}: {type(error).__name__}: {error}", "an importable module"
            ) from error
        found = None
    if found is None:
        raise ConfigError(
            f"cannot import the {what} {setting!r}: the module {module} does not exist",
            "an importable module",
            "install it or set PYTHONPATH",
        )
    return module, match["name"]


def source_of(setting: str) -> bytes:
    """The source of the module in "package.module:name", which can be found.

    Raises:
        ConfigError: it has no file, as a module that is built into Python.
    """
    module = setting.partition(":")[0]
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise ConfigError(f"the module {module} of {setting!r} has no source file", "a module in a file")
    return Path(found.origin).read_bytes()
