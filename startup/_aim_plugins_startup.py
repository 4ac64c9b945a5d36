"""Registers aim_plugins with lm-eval when lm-eval is imported. Loaded at every interpreter start.

This module is copied to the root of site-packages, and imports neither aim_plugins nor anything
but `sys` and `os` until `lm_eval.models` is imported: it costs a fraction of a millisecond, and a
broken, moved or half-removed aim_plugins can harm neither Python's start nor lm-eval.

Set AIM_PLUGINS_AUTOREGISTER=0 to turn it off.
"""

import os
import sys

HOST = "lm_eval.models"


class _RegisterWhenLoaded:
    """A loader that runs another loader's module, then registers our backends."""

    def __init__(self, loader, finder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        # The module must look as if it had never met this loader.
        module.__spec__.loader = module.__loader__ = self._loader
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        self._loader.exec_module(module)
        _register()


class _HostFinder:
    """A meta path finder that answers for `lm_eval.models` alone."""

    def find_spec(self, name, path=None, target=None):
        if name != HOST:
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _RegisterWhenLoaded(spec.loader, self)
                return spec
        return None


def _register():
    try:
        from aim_plugins.harnesses.lm_eval.register import register

        register()
    # Whatever is wrong with our installation, lm-eval goes on without our backends.
    except Exception as error:
        import logging

        logging.getLogger("aim_plugins").warning(
            "aim-plugins could not register its models with lm_eval (%s: %s). Reinstall it, or "
            "set AIM_PLUGINS_AUTOREGISTER=0 to silence this warning.",
            type(error).__name__,
            error,
        )


def install():
    """Watches for the import of `lm_eval.models`; a second call changes nothing."""
    if os.environ.get("AIM_PLUGINS_AUTOREGISTER") == "0":
        return
    if not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())
