"""From a request's `Authorization` header to its caller. Whatever goes wrong, the answer is 401: access fails closed."""

from inferstack_runtime.access.jwt import InvalidJwt, JwtVerifier
from inferstack_runtime.access.keys import Caller, KeyFile
from inferstack_runtime.errors import ApiError

ANONYMOUS = Caller("anonymous", "default", frozenset({"inference"}), "anonymous")


class Authenticator:
    """Knows callers by API key, and on some routes by the identity provider's tokens.

    With neither configured everybody is the anonymous tenant, which never has the admin scope.
    """

    def __init__(self, keys: KeyFile | None, tiers: tuple[str, ...] = ("default",), jwt: JwtVerifier | None = None) -> None:
        self._keys = keys
        self._jwt = jwt
        tier = "default" if "default" in tiers or not tiers else tiers[0]
        self._anonymous = Caller("anonymous", tier, ANONYMOUS.scopes, "anonymous")

    def refresh(self) -> int:
        """Re-read the key file if it changed; number of keys known."""
        if self._keys is None:
            return 0
        self._keys.refresh()
        return len(self._keys.keys.callers)

    async def authenticate(self, authorization: bytes | None, *, jwt: bool = False) -> Caller:
        """The caller; raises ApiError 401. `jwt`: this route also takes tokens of the identity provider."""
        if self._keys is None and self._jwt is None:
            return self._anonymous
        token = bearer(authorization)
        if token is None:
            raise _unauthorized("Missing bearer token")
        caller = self._keys.keys.find(token) if self._keys is not None else None
        if caller is None and jwt and self._jwt is not None:
            try:
                caller = await self._jwt.verify(token)
            except InvalidJwt:
                caller = None
        if caller is None:
            raise _unauthorized("Invalid token")
        return caller


def bearer(authorization: bytes | None) -> bytes | None:
    """The token of `Authorization: Bearer TOKEN`, or None."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(b" ")
    token = token.strip()
    return token if scheme.lower() == b"bearer" and token else None


def require(caller: Caller, scope: str) -> None:
    """Raise ApiError 403 unless the caller's key has `scope`."""
    if scope not in caller.scopes:
        raise ApiError(403, f"This key does not have the scope {scope!r}.", code="insufficient_scope", reason="forbidden")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", reason="unauthorized", headers={"www-authenticate": "Bearer"})
