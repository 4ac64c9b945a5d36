"""Which vLLM is installed, and whether its interfaces are the ones used here."""

from __future__ import annotations

import re

OLDEST = (0, 31)
"""First release whose logits processors come in both forms, and are told of bad arguments."""

NEWEST = (0, 32)
"""Last release whose model runners are known: a later one could run requests unmodulated."""

TESTED = "0.32.0"
"""The release that the tests run on."""


def require_supported(version: str | None = None) -> None:
    """Refuses a vLLM whose model runners are not known.

    Args:
        version: Version of vLLM; None asks the installed one.

    Raises:
        ImportError: If vLLM is missing, too old or too new, naming the version and what to install.
    """
    if version is None:
        try:
            from vllm import __version__ as installed
        except ImportError as error:
            raise ImportError(
                "vLLM could not be imported; install it with: pip install 'aim-plugins[vllm]' "
                f"({error})"
            ) from error
        version = str(installed)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    # Builds from source call themselves "dev", and are the business of who builds them.
    if numbers and not OLDEST <= (int(numbers[1]), int(numbers[2])) <= NEWEST:
        raise ImportError(
            f"vLLM {version} is not supported: aim-plugins follows the steps of vLLM's model "
            f"runners, and knows those of {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} "
            f"(tested with {TESTED}); install one with: pip install 'aim-plugins[vllm]'"
        )


def changed_interface(what: str) -> ImportError:
    """The error for a vLLM in which something private that is used here has moved."""
    from vllm import __version__

    return ImportError(
        f"vLLM {__version__} has no {what}: this release is not supported; install the tested one "
        f"with: pip install 'vllm=={TESTED}'"
    )
