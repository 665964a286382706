"""Using trained students: masks of new images under known or free class names, and ONNX files."""
