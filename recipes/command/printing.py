"""Lines of standard output, whatever names and texts stand in them."""

import json
from typing import Any


def as_json(record: dict[str, Any]) -> str:
    """One line of JSON. Letters stay as they are; the bytes of a name that is no UTF-8 are escaped, since nothing could
    print them."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
