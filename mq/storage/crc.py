"""CRC-32C, by the library crc32c: its C module, without what that package loads for itself.

    crc32c/__init__.py      importlib.metadata, argparse, …, for a version number and a command of its own
    crc32c/_crc32c.so       the function

Since version 2.9, what the package loads takes a fifth of the time of `import mq`, in each worker and each
command.  So its C module is loaded here, from where the package is.  If there is none of that name, the
package is imported as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Final

MODULE: Final = "crc32c._crc32c"


def _find() -> Callable[..., int]:
    package = find_spec("crc32c")
    found = package and PathFinder.find_spec(MODULE, package.submodule_search_locations)
    if not found or not found.loader:
        from crc32c import crc32c

        return crc32c
    module = module_from_spec(found)
    found.loader.exec_module(module)
    function: Callable[..., int] = module.crc32c
    return function


if TYPE_CHECKING:
    from crc32c import crc32c as crc32c
else:
    crc32c = _find()
