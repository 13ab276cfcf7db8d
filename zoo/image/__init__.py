"""Images: read from files, and made into what a vision model takes, the same in NumPy and in a TensorFlow graph.

`zoo.image.graph` is the graph's part, and is not imported here: it needs TensorFlow.
"""

from zoo.image.decode import read_image
from zoo.image.pixels import preprocess
from zoo.image.preprocessing import Preprocessing

__all__ = ["Preprocessing", "preprocess", "read_image"]
