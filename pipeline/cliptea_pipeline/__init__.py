"""The pipeline of cliptea and its command line."""
