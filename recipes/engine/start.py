"""Starting TensorFlow without its greetings."""

import importlib
import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Import TensorFlow and let it find its devices, a few seconds in which it writes notes to standard error that no
    setting of its own turns off. They are dropped, unless it fails or `ZOO_DEBUG` is set."""
    if "tensorflow" in sys.modules or os.environ.get("ZOO_DEBUG"):
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            importlib.import_module("tensorflow").config.list_physical_devices()
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
