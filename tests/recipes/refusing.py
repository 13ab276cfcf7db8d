"""What every refusal of data is to be: one line, that says what it is to say."""

from collections.abc import Callable

import pytest

from zoo.errors import UserError


def assert_refused(action: Callable[[], object], *words: str) -> None:
    """A UserError of one line that has these words."""
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
