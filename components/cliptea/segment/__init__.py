"""Using a trained student to segment images, without CLIP."""
