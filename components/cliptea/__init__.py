"""CLIPTeacher (arXiv 2310.02296) as a pipeline: zero-shot segmentation by distilling CLIP."""

__version__ = "0.1.0"
