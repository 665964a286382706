"""Types of settings that refuse more than pydantic does. `cliptea.valid_config` has the words for their errors."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from cliptea.addresses import names_place

__all__ = ["NUMBER", "WHOLE", "Address", "ModelAddress"]


def _whole(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\s*[-+]?[0-9]+\s*", value):  # pydantic also takes 1_000 and 5.0
        raise PydanticCustomError("int_parsing", "not a whole number in digits")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str) and "_" in value:  # which pydantic takes
        raise PydanticCustomError("float_parsing", "not a number in digits")
    return value


def _address(value: str) -> str:
    if not names_place(value):
        raise PydanticCustomError("address", "not the address of a file or folder")
    return value


def _model_address(value: str) -> str:
    if value.startswith("file:") or not (value.startswith(("models:/", "runs:/")) or names_place(value)):
        raise PydanticCustomError("model_address", "not the address of a model")
    return value


WHOLE, NUMBER = BeforeValidator(_whole), BeforeValidator(_number)
Address = Annotated[str, AfterValidator(_address)]  # of a file or folder, or a name such as demo
ModelAddress = Annotated[str, AfterValidator(_model_address)]
