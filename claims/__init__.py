"""The evidence for the method on the demo's worlds; see __main__."""
