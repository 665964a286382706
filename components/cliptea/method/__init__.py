"""The CLIPTeacher method (arXiv 2310.02296) as functions and small classes that only need torch.

Sections, equations, algorithms and tables in this package are those of the paper. docs/method.md explains where the
code differs from it.

glm             section 3.2: global token, bank of CLS tokens, L_global
regions         section 3.3: ignored tokens -> region map
clustering      section 3.3, eq. 4, 5: seeds from windows, spherical K-means
fusion          section 3.3, Algorithm 1: similar clusters -> one region
plm             section 3.3: pixels without a label -> ignored tokens, region map -> pseudo labels
vla             section 3.3, eq. 7, 8: class centroids, the vision-language adapter, L_generate
losses          eq. 9: logits over seen and pseudo classes, which classes have pixels
pixel_losses    eq. 10, 12: cross entropy, focal and dice in bands of rows
upsampling      bilinear upsampling of bands of rows, and its transpose
normalised_cut  not in the paper: an alternative to clustering and fusion
local_contrast  not in the paper: region features and CLIP's embeddings of regions are contrasted
naming          not in the paper: regions -> names of unseen classes, in the transductive setting
precision       float32 arithmetic inside mixed-precision training
"""
