"""The rows. Each module has `measure(bench)`, which gives the `Row`s that it measured."""
