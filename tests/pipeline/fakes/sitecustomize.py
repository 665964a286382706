"""With this folder on PYTHONPATH, what the steps call and hand on is that of fake_functions.py."""

import importlib
import importlib.abc
import importlib.machinery
import sys

# The modules are real, with these names replaced.
REPLACED = {
    "cliptea.settings": ["load"],
    "cliptea.tracking.state": ["mark_complete"],
    "cliptea.manifest": ["Manifest"],
    "cliptea.run": ["Run"],
    "cliptea.steps.resolve": ["check", "skip", "start_run"],
    "cliptea.steps.split": ["Splits", "log_splits", "make_splits"],
    "cliptea.steps.tokens": ["MadePart", "make_tokens"],
    "cliptea.steps.teacher": ["TeacherCache", "publish_cache"],
    "cliptea.steps.train": ["TrainInputs", "train_variant"],
    "cliptea.steps.evaluate": ["Evaluated", "evaluate_variant"],
    "cliptea.steps.compare": ["Comparison", "compare_variants"],
    "cliptea.steps.promote": ["promote_best"],
    "cliptea.steps.finish": ["finish_run"],
}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in REPLACED:
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            spec.loader = Loader(name, spec.origin)
            return spec
        return None


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        fakes = importlib.import_module("fake_functions")
        for name in REPLACED[module.__name__]:
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            setattr(module, name, getattr(fakes, name))


sys.meta_path.insert(0, Finder())
