"""The models made portable: SavedModel, TFLite and ONNX files that are proven to compute what the model computes."""
