"""Read by every Python that starts on the emulated device: CuPy works on it from its import on."""

import importlib.abc
import importlib.util
import sys


class OnTheEmulator(importlib.abc.MetaPathFinder):
    """Finds CuPy as others do, and prepares what it is made of before and after it runs."""

    def find_spec(self, name, path, target=None):
        if name != "cupy":
            return None
        import emulated

        sys.meta_path.remove(self)
        emulated.redirect_runtime()
        found = importlib.util.find_spec(name)
        run = found.loader.exec_module

        def exec_module(module):
            run(module)
            emulated.replace_compiler()
            emulated.replace_libraries(module)

        found.loader.exec_module = exec_module
        return found


sys.meta_path.insert(0, OnTheEmulator())
