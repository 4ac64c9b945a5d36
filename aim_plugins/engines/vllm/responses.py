"""What a server's clients are told was changed: a receipt in each choice of a modulated request.

Of a stream it is in the last chunk of the choice. vLLM's response models take further entries.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from aim_plugins.engines.vllm.parameters import PREFIX
from aim_plugins.engines.vllm.served import RECEIPT
from aim_plugins.engines.vllm.versions import changed_interface


def add_receipts() -> None:
    """Lets responses of completions and chats hold the receipts of their answers.

    Raises:
        ImportError: If this release of vLLM makes its responses elsewhere.
    """
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    _replace(OpenAIServingCompletion, "request_output_to_completion_response", _completion)
    _replace(OpenAIServingCompletion, "completion_stream_generator", _completion_stream)
    _replace(OpenAIServingChat, "chat_completion_full_generator", _chat)
    _replace(OpenAIServingChat, "chat_completion_stream_generator", _chat_stream)


def _replace(owner: Any, name: str, instead: Callable[..., Any]) -> None:
    """Lets a method of a class be called by another function, which gets it first."""
    original = getattr(owner, name, None)
    if original is None:
        raise changed_interface(f"{owner.__name__}.{name}")
    if getattr(original, "gives_receipts", False):
        return

    @functools.wraps(original)
    def replaced(self: Any, *arguments: Any, **options: Any) -> Any:
        return instead(functools.partial(original, self), *arguments, **options)

    replaced.gives_receipts = True  # type: ignore[attr-defined]
    setattr(owner, name, replaced)


class Receipts:
    """The receipts of a response's choices, as outputs bring them.

    Args:
        choices: Choices of each prompt.
    """

    def __init__(self, choices: int = 1) -> None:
        self._choices = choices
        self._found: dict[int, dict[str, Any]] = {}

    def note(self, output: Any, prompt: int = 0) -> None:
        """Takes those that an output of a prompt has."""
        for one in output.outputs:
            if (receipt := getattr(one, RECEIPT, None)) is not None:
                self._found[prompt * self._choices + one.index] = receipt

    async def noted(self, outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Outputs, or pairs of a prompt and an output, noted as they pass."""
        async with contextlib.aclosing(outputs):
            async for one in outputs:
                prompt, output = one if isinstance(one, tuple) else (0, one)
                self.note(output, prompt)
                yield one

    def give(self, response: Any) -> Any:
        """A response with the receipts in its choices; an error has none."""
        for choice in getattr(response, "choices", ()):
            if (receipt := self._found.get(choice.index)) is not None:
                setattr(choice, RECEIPT, receipt)
        return response

    async def given(self, chunks: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """The chunks of a stream, with its receipt in the last one of each choice."""
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield self._in_chunk(chunk) if self._found else chunk

    def _in_chunk(self, chunk: str) -> str:
        head, _, body = chunk.partition("data: ")
        if not body.startswith("{"):
            return chunk
        content = json.loads(body)
        ended = [
            choice
            for choice in content.get("choices", ())
            if choice.get("finish_reason") is not None and choice["index"] in self._found
        ]
        for choice in ended:
            choice[RECEIPT] = self._found.pop(choice["index"])
        dumped = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return f"{head}data: {dumped}\n\n" if ended else chunk


def _is_modulated(request: Any) -> bool:
    """Whether a body asks for changes; all others go vLLM's own way."""
    given: Iterable[str] = getattr(request, "vllm_xargs", None) or ()
    return any(name.startswith(PREFIX) for name in given)


def _completion(original: Any, outputs: Any, request: Any, *arguments: Any, **options: Any) -> Any:
    receipts = Receipts(request.n or 1)
    for prompt, output in enumerate(outputs):
        receipts.note(output, prompt)
    return receipts.give(original(outputs, request, *arguments, **options))


def _completion_stream(
    original: Any, request: Any, inputs: Any, outputs: Any, *arguments: Any, **options: Any
) -> Any:
    if not _is_modulated(request):
        return original(request, inputs, outputs, *arguments, **options)
    receipts = Receipts(request.n or 1)
    noted = receipts.noted(outputs)
    return receipts.given(original(request, inputs, noted, *arguments, **options))


async def _chat(original: Any, request: Any, outputs: Any, *arguments: Any, **options: Any) -> Any:
    if not _is_modulated(request):
        return await original(request, outputs, *arguments, **options)
    receipts = Receipts()
    noted = receipts.noted(outputs)
    return receipts.give(await original(request, noted, *arguments, **options))


def _chat_stream(original: Any, request: Any, outputs: Any, *arguments: Any, **options: Any) -> Any:
    if not _is_modulated(request):
        return original(request, outputs, *arguments, **options)
    receipts = Receipts()
    return receipts.given(original(request, receipts.noted(outputs), *arguments, **options))
