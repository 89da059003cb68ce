"""The shared server over TLS with a password: a real Valkey behind a TLS end, its certificate signed by an authority of the test."""

import asyncio
import datetime
import ipaddress
import ssl

import pytest
from conftest import Valkey

from inferstack_runtime.caching.shared import SharedStore, StoreDown
from inferstack_runtime.metrics import Metrics

pytestmark = pytest.mark.parts
x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")


def certificate(folder, name):
    """A self-signed certificate for 127.0.0.1: files of certificate and key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


async def test_only_a_certificate_of_the_given_authority_and_the_right_password_are_trusted(tmp_path):
    server = Valkey(tmp_path)
    crt, key = certificate(tmp_path, "server")
    other, _ = certificate(tmp_path, "other")
    server.start()
    tasks = set()

    async def carry(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def copy(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        tasks.update((asyncio.create_task(copy(reader, inner_writer)), asyncio.create_task(copy(inner_reader, writer))))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    end = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    port = end.sockets[0].getsockname()[1]
    try:
        import redis

        plain = redis.Redis.from_url(server.url)
        plain.config_set("requirepass", "s3cret")
        plain.close()
        results = {}
        for name, password, authority in (
            ("right", "s3cret", crt),
            ("wrong password", "guess", crt),
            ("other authority", "s3cret", other),
        ):
            store = SharedStore(f"rediss://:{password}@127.0.0.1:{port}/0?ssl_ca_certs={authority}", 5.0, Metrics())
            await store.open()
            try:
                results[name] = await store.call("cache", lambda client: client.set("key", "value"))
            except StoreDown:
                results[name] = "down"
            await store.close()
        assert results == {"right": True, "wrong password": "down", "other authority": "down"}
    finally:
        end.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.stop()
