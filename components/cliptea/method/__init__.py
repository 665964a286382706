"""The CLIPTeacher method (arXiv 2310.02296) as pure tensor functions that only need torch.

Sections, equations, algorithms and tables in this package are those of the paper. docs/method.md explains where the
code differs from it.

glm         section 3.2: global token, bank of CLS tokens, L_global
regions     section 3.3: ignored tokens -> region map (with clustering and fusion)
plm         section 3.3: pixels without a label -> ignored tokens, region map -> pseudo labels
vla         section 3.3: class centroids, the vision-language adapter, L_generate
losses      eq. 9: logits over seen and pseudo classes, which classes have pixels
pixel_losses  eq. 10, 12: cross entropy, focal and dice in bands of rows (with upsampling)
"""
