"""A trained student at test time: from an image to a mask. CLIP is not needed for it."""
