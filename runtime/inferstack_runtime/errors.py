"""Errors in the shape that OpenAI clients read: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping

import orjson

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
    507: "server_error",
}


class ApiError(Exception):
    """An answer that is an error. `reason` is the label under which it is counted as rejected, if it is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.reason = reason
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, object]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        return orjson.dumps(self.to_json())


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be answered as it stands (400)."""
    return ApiError(400, message, param=param, code=code, reason="invalid")


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A thing that does not exist (404)."""
    return ApiError(404, message, param=param, code=code)
