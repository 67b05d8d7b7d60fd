"""How values of options are written: lists and mappings as text, numbers with their bounds.

Owns: the annotated types that ``server/config.py`` builds its fields from. Knows no option.
"""

from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode


def listed(value: Any) -> Any:
    """A list from an environment variable: JSON, or items between commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def _mapped(value: Any) -> Any:
    """A mapping from JSON, or from ``name=value`` items (a list, or between commas).

    A flag that is given once is a list of one text, and means what the text alone does.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return _json(value)
    items = listed(value)
    if not isinstance(items, list | tuple):
        return items
    return dict(_name_and_value(item) for item in items)


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None


def _name_and_value(item: Any) -> tuple[str, Any]:
    name, separator, text = str(item).partition("=")
    if not (name.strip() and separator):
        raise ValueError("write each item as name=value")
    try:
        return name.strip(), orjson.loads(text)
    except orjson.JSONDecodeError:
        return name.strip(), text.strip()


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(listed)]
EngineOptions = Annotated[dict[str, Any], NoDecode, BeforeValidator(_mapped)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, le=36_500)]
