"""What a signing certificate says of the workflow that signed (Fulcio's extensions).

Object identifiers: github.com/sigstore/fulcio, docs/oid-info.md.
"""

from __future__ import annotations

from servegate.report.format import clean

_ARC = "1.3.6.1.4.1.57264.1."
_OLD = {"trigger": "2", "commit": "3", "workflow": "4", "repository": "5", "ref": "6"}  # plain text
_ISSUER, _OLD_ISSUER, _RUN = "8", "1", "21"


def facts(der: bytes) -> dict[str, str]:
    """Identity, issuer and workflow of a certificate that has been verified; what it does not say is left out."""
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    found: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names = [
                str(name.value) for name in value if isinstance(name, x509.UniformResourceIdentifier | x509.RFC822Name)
            ]
            if names:
                found["subject"] = clean(names[0], 500)
        elif isinstance(value, x509.UnrecognizedExtension) and value.oid.dotted_string.startswith(_ARC):
            texts[value.oid.dotted_string.removeprefix(_ARC)] = value.value
    issuer = _utf8(texts[_ISSUER]) if _ISSUER in texts else texts.get(_OLD_ISSUER, b"").decode("utf-8", "replace")
    if issuer:
        found["issuer"] = clean(issuer, 500)
    for name, number in _OLD.items():
        if number in texts:
            found[name] = clean(texts[number].decode("utf-8", "replace"), 500)
    if _RUN in texts:
        found["run"] = clean(_utf8(texts[_RUN]), 500)
    return found


def _utf8(der: bytes) -> str:
    """A DER UTF8String."""
    if len(der) < 2 or der[0] != 0x0C:
        return ""
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start])
    return der[start : start + length].decode("utf-8", "replace")
