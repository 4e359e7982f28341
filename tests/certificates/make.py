"""Makes the certificates of the tests: `python tests/certificates/make.py`, with the package `cryptography`.

Only needed to change them: the files are kept beside this one, and are valid from 2020 to 2120.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = Path(__file__).parent
BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def build(subject: str, issuer: str, key, signer, *, authority: bool, begin=BEGIN, end=END, hosts=()):
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def private(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def main() -> None:
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = "hayase test authority"
    (FOLDER / "authority.pem").write_bytes(build(issuer, issuer, authority, authority, authority=True))
    localhost = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    past = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
    for file, subject, hosts, end in (
        ("server.pem", "localhost", localhost, END),
        ("other.pem", "other.example", [x509.DNSName("other.example")], END),
        ("expired.pem", "localhost", localhost, past),
        ("client.pem", "a client", [], END),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build(subject, issuer, key, authority, authority=False, end=end, hosts=hosts)
        (FOLDER / file).write_bytes(private(key) + certificate)


if __name__ == "__main__":
    main()
