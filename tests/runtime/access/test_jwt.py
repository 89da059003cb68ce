import json
import time

import jwt
import pytest
from conftest import running
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from inferstack_runtime.access.jwt import InvalidJwt, JwtVerifier
from inferstack_runtime.config import JwtConfig

TIERS = {"default": None, "premium": None}
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
URL = "http://127.0.0.1:9/keys"
SECRET = b"0123456789abcdef0123456789abcdef-secret"


def key_set(**keys):
    entries = []
    for kid, key in keys.items():
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        entries.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": entries}).encode()


def token(key=RSA_KEY, algorithm="RS256", kid="a", **claims):
    body = {"sub": "user", "aud": "chat", "exp": time.time() + 60, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers={"kid": kid} if kid else {}).encode()


def verifier(keys=None, clock=time.monotonic, **config):
    keys = keys or {"a": RSA_KEY, "e": EC_KEY}
    return JwtVerifier(JwtConfig(jwks_url=URL, audience="chat", **config), TIERS, lambda url: key_set(**keys), clock)


async def test_signed_tokens_name_their_caller():
    check = verifier()
    caller = await check.verify(token(tier="premium"))
    assert (caller.tenant, caller.tier) == ("jwt:user", "premium")
    assert (await check.verify(token(EC_KEY, "ES256", "e"))).tenant == "jwt:user"
    assert (await check.verify(token(tier="no such tier"))).tier == "default"
    assert "admin" not in (await check.verify(token(scope="admin", scopes=["admin"]))).scopes


def unsigned():
    return jwt.encode({"sub": "u", "aud": "chat", "exp": time.time() + 60}, None, "none", headers={"kid": "a"}).encode()


def confused():
    """HS256 signed with the public key, which an attacker knows."""
    import base64
    import hashlib
    import hmac

    public = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "kid": "a"}).encode())
    signed = head + b"." + part(json.dumps({"sub": "u", "aud": "chat", "exp": time.time() + 60}).encode())
    return signed + b"." + part(hmac.new(public, signed, hashlib.sha256).digest())


@pytest.mark.parametrize(
    "make",
    [
        lambda: token(exp=time.time() - 3600),
        lambda: token(exp=None),
        lambda: token(aud="other"),
        lambda: token(aud=None),
        lambda: token(sub="a\0b"),
        lambda: token(sub="\ud800"),
        lambda: token(sub=None),
        lambda: token(nbf=time.time() + 3600),
        lambda: token(kid="unknown"),
        lambda: token(rsa.generate_private_key(65537, 2048)),
        lambda: token(EC_KEY, "ES256", "a"),
        lambda: token(RSA_KEY, "RS512"),
        lambda: token()[:-4] + b"AAAA",
        lambda: b"not.a.token",
        lambda: b"\xff\xfe.x.y",
        unsigned,
        confused,
    ],
)
async def test_what_proves_nothing_is_refused(make):
    with pytest.raises(InvalidJwt):
        await verifier().verify(make())


@pytest.mark.parametrize(
    "entry", [{"kty": "RSA", "n": "!", "e": "AQAB"}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "x", None]
)
async def test_a_key_that_is_none_leaves_the_others_of_its_set_in_force(entry):
    keys = json.loads(key_set(a=RSA_KEY))
    keys["keys"].insert(0, {"kid": "broken", **entry} if isinstance(entry, dict) else entry)
    check = JwtVerifier(JwtConfig(jwks_url=URL, audience="chat"), TIERS, lambda url: json.dumps(keys).encode())
    assert (await check.verify(token())).tenant == "jwt:user"
    with pytest.raises(InvalidJwt):
        await check.verify(token(kid="broken"))


async def test_keys_rotate_without_a_restart():
    now, fetched = [0.0], []
    keys = {"a": RSA_KEY}
    check = JwtVerifier(JwtConfig(jwks_url=URL, audience="chat"), TIERS, lambda url: fetched.append(1) or key_set(**keys), lambda: now[0])
    await check.verify(token())
    new = rsa.generate_private_key(65537, 2048)
    keys.clear()
    keys["b"] = new
    with pytest.raises(InvalidJwt):
        await check.verify(token(new, kid="b"))
    now[0] = 11
    await check.verify(token(new, kid="b"))
    with pytest.raises(InvalidJwt):
        await check.verify(token())
    assert len(fetched) == 2, "unknown ids cannot make it fetch at will"


async def test_a_key_server_that_is_away_fails_closed_but_keeps_known_keys():
    now, up = [0.0], [True]

    def fetch(url):
        if not up[0]:
            raise OSError("down")
        return key_set(a=RSA_KEY)

    check = JwtVerifier(JwtConfig(jwks_url=URL, audience="chat"), TIERS, fetch, lambda: now[0])
    await check.verify(token())
    up[0], now[0] = False, 1000
    await check.verify(token())
    with pytest.raises(InvalidJwt):
        await check.verify(token(kid="other"))


async def test_a_secret_verifies_hs256_only(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    check = JwtVerifier(JwtConfig(secret_file=str(file), audience="chat"), TIERS)
    assert (await check.verify(token(SECRET, "HS256"))).tenant == "jwt:user"
    for wrong in (token(), token(b"another secret that is long enough", "HS256")):
        with pytest.raises(InvalidJwt):
            await check.verify(wrong)
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        JwtVerifier(JwtConfig(secret_file=str(file)), TIERS)


async def test_the_chat_route_takes_tokens_and_the_others_do_not(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    async with running(access={"jwt": {"secret_file": str(file), "audience": "chat"}}) as run:
        bearer = {"authorization": "Bearer " + token(SECRET, "HS256").decode()}
        for path in ("/chat/stream", "/api/prediction/chat"):
            assert (await run.post(path, {"query": "hi"}, **bearer)).status_code == 200
            assert (await run.post(path, {"query": "hi"})).status_code == 401
        assert (await run.post("/v1/completions", {"model": "fake", "prompt": "x"}, **bearer)).status_code == 401
