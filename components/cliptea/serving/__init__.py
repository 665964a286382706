"""Using trained students: masks of new images for known or new class names, and ONNX files."""
