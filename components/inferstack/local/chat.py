"""A streamed chat answer from the gateway, in the OpenAI form."""

import http.client
import json
from collections.abc import Iterator, Sequence
from typing import Any

from inferstack.local.errors import LocalError


def stream_chat(
    port: int, key: str, model: str, messages: Sequence[dict[str, str]], *, max_tokens: int, timeout: float, temperature: float = 0
) -> Iterator[str]:
    """Yield the answer's text as it comes from `POST 127.0.0.1:port/v1/chat/completions`.

    `timeout` (seconds) bounds the wait for each piece. Raises LocalError when the answer is refused or ends before its end.
    """
    body = {"model": model, "messages": list(messages), "stream": True, "max_tokens": max_tokens, "temperature": temperature}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            code = "limited" if response.status == 429 else "refused"
            raise LocalError(code, f"the gateway answered {response.status}: {_reason(response.read())}")
        while line := response.readline():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise LocalError("refused", f"the answer failed: {event['error'].get('message', event['error'])}")
            for choice in event.get("choices", []):
                if text := choice.get("delta", {}).get("content"):
                    yield text
        raise LocalError("truncated", "the answer ended before its end")
    except (OSError, http.client.HTTPException) as error:
        raise LocalError(
            "unreachable", f"no answer from http://127.0.0.1:{port}: {error or type(error).__name__}", next_step="inferstack status"
        ) from None
    finally:
        connection.close()


def _reason(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        return str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()[:300] or "no reason given"
