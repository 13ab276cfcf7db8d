"""Packaging: what installs, with which versions, and the `zoo` command."""

from pathlib import Path

from setuptools import find_packages, setup

# Floors are the versions that the code was written and measured against; ceilings stop at the next release
# that may break a promise (`fit` is extended, so Keras is held to its minor version).
CORE = [
    "tensorflow>=2.21,<2.22",
    "keras>=3.15.1,<3.16",
    "numpy>=2.0,<3",
    "pillow>=11,<14",
    "ml-dtypes>=0.5,<1",
    "safetensors>=0.8,<0.9",
    "huggingface-hub>=1,<3",
    "tokenizers>=0.23,<0.24",
    "tyro>=1.0,<2",
    "rich>=14,<16",
    "matplotlib>=3.10,<4",
    "tensorboard>=2.20,<2.22",
    "scikit-learn>=1.7,<2",
    "nervaluate>=1.1,<2",
]
PARQUET = ["pyarrow>=18,<28"]
EXPORT = [
    "tf2onnx>=1.17,<1.18",
    "onnx>=1.21,<1.24",
    "onnxruntime>=1.23,<2",
    "ai-edge-litert>=2.1,<3",
    "flatbuffers>=25.9,<26",
]
# The text and image packages of the Keras project: reference implementations in the tests, and the ground for
# tokenizers inside a graph (text) and augmentation (image).
TEXT = ["keras-nlp>=0.32,<0.33", "tensorflow-text>=2.21,<2.22"]
IMAGE = ["keras-cv>=0.9,<0.10"]
# Live comparisons with other libraries' own code: `make test-peers`.
PEERS = ["torch>=2.13,<3", "transformers>=5.20,<6", "jax>=0.10,<0.12"]
DEV = [
    *EXPORT,
    *PARQUET,
    *TEXT,
    *IMAGE,
    "pytest>=9,<10",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.150,<7",
    "ruff>=0.17,<0.18",
    "mypy>=2.1,<3",
]

setup(
    name="tf-model-zoo",
    version="0.1.0",
    description="BERT, GPT-2, ViT and CLIP for Keras 3 and TensorFlow: trained right, exported with proof",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["zoo", "zoo.*", "export", "export.*", "recipes", "recipes.*"]),
    package_data={"zoo": ["py.typed"]},
    install_requires=CORE,
    extras_require={
        "export": EXPORT,
        "parquet": PARQUET,
        "text": TEXT,
        "image": IMAGE,
        "demo": EXPORT,
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "dev": DEV,
        "peers": PEERS,
    },
    entry_points={"console_scripts": ["zoo = recipes.command:main"]},
)
