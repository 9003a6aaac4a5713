"""Put on PYTHONPATH, this makes reading go wrong in every process of a run, for slides whose names say how.

``crash-*`` ends the process as a decoder in C does (SIGABRT), ``hang-*`` never returns, ``hungry-*`` asks for more
memory than its process may have (RLIMIT_AS), ``fleeting-*`` is deleted by the first process that reads of it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from types import ModuleType
from typing import Any

_MODULE = "wsi_pipeline.slides.slide"


def _go_wrong(path: Any) -> None:
    name = os.path.basename(str(path))
    if name.startswith("crash-"):
        os.abort()
    if name.startswith("hang-"):
        time.sleep(100_000)
    if name.startswith("hungry-"):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, before[1]))
        try:
            bytearray(2**30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    if name.startswith("fleeting-") and os.path.exists(path):
        os.unlink(path)
        raise FileNotFoundError(2, "No such file or directory", str(path))


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        read = module.Slide.read

        def faulty(self: Any, *arguments: Any, **named: Any) -> Any:
            _go_wrong(self.path)
            return read(self, *arguments, **named)

        module.Slide.read = faulty


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
