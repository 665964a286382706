"""Using trained students: masks of new images for known or new class names, and exports for other runtimes."""
