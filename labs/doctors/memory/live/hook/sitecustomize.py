"""Python imports this at start-up because its folder stands on PYTHONPATH: the doctor's way in.

It imports no torch. It waits until the program does, and only then loads the recorder, from the
folder that the file beside it names, under a name of its own; nothing is added to the program's
import path, and this folder leaves it again. The sitecustomize that this one hides is run as usual.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "_oom_doctor"


def load_recorder(config):
    """The recorder's module, from `config["lib"]`, as `_oom_doctor.live.recorder`."""
    name = PACKAGE + ".live.recorder"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        PACKAGE,
        os.path.join(config["lib"], "__init__.py"),
        submodule_search_locations=[config["lib"]],
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    return importlib.import_module(name)


class AfterImport:
    """A finder that finds nothing itself: it calls `actions[name]` once a module is imported."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        """The real finders' spec, with the action behind it.

        Asking is not importing (transformers asks for torch's spec before it imports it): the
        action is kept until the module has really been executed.
        """
        if name not in self.actions:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                self.follow(name, spec.loader)
                return spec
        return None

    def follow(self, name, loader):
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            action = self.actions.pop(name, None)
            try:
                if action is not None:
                    action(module)
            except Exception as error:  # the program comes first
                report(error)

        loader.exec_module = exec_module


def report(error):
    with open(os.path.join(CONFIG["folder"], f"error-{os.getpid()}.txt"), "a") as file:
        file.write(f"{type(error).__name__}: {error}\n")


def arm(torch):
    load_recorder(CONFIG).arm(CONFIG, torch)


def arm_later(name):
    return lambda module: load_recorder(CONFIG).arm_module(name, module)


def chain():
    """Run the sitecustomize that stands next on the path, as if this one were not there."""
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:
    with open(os.path.join(HERE, "oom_doctor.json")) as file:
        CONFIG = json.load(file)
    # That this ran is worth knowing where nothing else reports.
    os.close(os.open(os.path.join(CONFIG["folder"], f"hello-{os.getpid()}"), os.O_CREAT, 0o600))
    actions = {name: arm_later(name) for name in CONFIG["modules"]}
    actions["torch"] = arm
    sys.meta_path.insert(0, AfterImport(actions))
except (OSError, ValueError, KeyError):
    pass  # the run's folder is gone: the program outlived its doctor
chain()
