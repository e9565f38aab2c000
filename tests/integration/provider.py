"""A provider of OpenID Connect, real but for what a test makes it say: its tokens can be bent on their way."""

import base64
import hashlib
import hmac
import json
import threading
import time
import warnings
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit

import httpx
from werkzeug.serving import make_server

PEOPLE = {
    "ann": {"email": "ann@example.org", "email_verified": True, "groups": ["readers"]},
    "bob": {"email": "bob@example.org", "email_verified": True, "groups": ["churn-leads", "others"]},
    "eve": {"email": "eve@example.org", "email_verified": True, "groups": ["others"]},
    "boss": {"email": "boss@example.org", "email_verified": True},
    "liar": {"email": "boss@example.org", "email_verified": False, "groups": ["readers"]},
}

CONFIGURED = """
[models.calm]
task = "binary"
label = "late"
[dashboard]
url = "{pages}"
[dashboard.oidc]
issuer = "{issuer}"
client_id = "pages"
client_secret = "5ecret of the pages"
title = "Example"
"""

RULES = """
[[dashboard.oidc.rules]]
claim = "groups"
value = "readers"
scopes = ["read"]
[[dashboard.oidc.rules]]
claim = "groups"
value = "churn-leads"
scopes = ["read", "approve"]
models = ["churn"]
[[dashboard.oidc.rules]]
claim = "email"
value = "boss@example.org"
scopes = ["admin"]
"""


def configured(issuer, pages, rules=RULES):
    """Of a configuration what says that people sign in to these pages there; and a second model."""
    return CONFIGURED.format(issuer=issuer, pages=pages) + rules


class Provider:
    """Where people of that name sign in. `bend` is given a token's header and claims, and returns the token sent."""

    def __init__(self, app, server):
        self._server = server
        self.issuer = f"http://localhost:{server.server_port}"
        self.asked = []  # of the token endpoint: its headers and form
        self.bend = None
        self.metadata, self.said = {}, {}  # what it says otherwise of itself, and of people when it is asked
        app.before_request(self._note)
        app.after_request(self._bent)

    def sign_in(self, address, who):
        """What a person does there; returns the address that they are sent back to."""
        answer = httpx.post(address, data={"sub": who})
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def key(self):
        """What it signs with."""
        import flask
        from joserfc.jwk import RSAKey  # of an extra, as all that this module imports late

        return RSAKey.import_key(flask.g.oidc_provider_mock_storage.jwk.as_dict(is_private=True))

    def _note(self):
        import flask

        if flask.request.path == "/oauth2/token":
            self.asked.append((dict(flask.request.headers), flask.request.form.to_dict()))

    def _bent(self, answer):
        import flask

        content = answer.get_json(silent=True)
        if flask.request.path == "/oauth2/token" and self.bend and "id_token" in content:
            parts = content["id_token"].split(".")[:2]
            header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts)
            answer.set_data(json.dumps({**content, "id_token": self.bend(self.key(), header, claims)}))
        if flask.request.path == "/.well-known/openid-configuration" and self.metadata:
            answer.set_data(json.dumps({name: value for name, value in (content | self.metadata).items() if value}))
        if flask.request.path == "/userinfo" and self.said:
            answer.set_data(json.dumps({**content, **self.said}))
        return answer


@contextmanager
def running_provider():
    """It, as long as the context lasts, at another site than the pages (localhost is another than 127.0.0.1)."""
    import authlib.deprecate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)  # of what it is made of
        import oidc_provider_mock

    people = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    app = oidc_provider_mock.app(require_nonce=True, user_claims=people)
    server = make_server("localhost", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    provider = Provider(app, server)
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


def query_of(address):
    return dict(parse_qsl(urlsplit(address).query))


def challenge_of(verifier):
    """As RFC 7636 has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def signed(key, header, claims):
    """A token with that header and these claims, by the key."""
    from joserfc import jwt

    return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def unsigned(header, claims, signature=b""):
    """A token with that header and these claims, and what is said to be their signature."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def changed(**claims):
    """The provider's own signature below other claims; None: without that one."""

    def bend(key, header, own):
        return signed(key, header, {name: value for name, value in {**own, **claims}.items() if value is not None})

    return bend


def _by_the_public_key(key, header, claims):
    """Signed with what everybody knows, as if it were a secret that we share with the provider."""
    header = {**header, "alg": "HS256"}
    message = unsigned(header, claims).rpartition(".")[0]
    return unsigned(header, claims, hmac.new(key.as_pem(private=False), message.encode(), hashlib.sha256).digest())


def _by_a_key_of_its_own(_, header, claims):
    """Signed with a key that the token itself names."""
    from joserfc.jwk import ECKey

    own = ECKey.generate_key("P-256")
    return signed(own, {"alg": "ES256", "jwk": own.as_dict(private=False)}, claims)


def _by_somebody(_, header, claims):
    from joserfc.jwk import RSAKey

    return signed(RSAKey.generate_key(2048), header, claims)


NOW = int(time.time())

BENT = {
    "a nonce of another attempt": (changed(nonce="x" * 64), "invalid_claim: nonce"),
    "no nonce": (changed(nonce=None), "missing_claim: nonce"),
    "expired": (changed(exp=NOW - 61, iat=NOW - 3700), "expired_token: exp"),
    "no expiry": (changed(exp=None), "missing_claim: exp"),
    "an expiry that is none": (changed(exp="tomorrow"), "invalid_claim: exp"),
    "not yet valid": (changed(nbf=NOW + 3600), "invalid_claim: nbf"),
    "for another": (changed(aud="another"), "invalid_claim: aud"),
    "for several, asked for by another": (changed(aud=["pages", "another"], azp="another"), "invalid_claim: azp"),
    "for several, asked for by nobody": (changed(aud=["pages", "another"]), "missing_claim: azp"),
    "by another issuer": (changed(iss="https://evil.example"), "invalid_claim: iss"),
    "of nobody": (changed(sub=None), "missing_claim: sub"),
    "of another access token": (changed(at_hash="A" * 22), "invalid_claim: at_hash"),
    "not signed": (lambda _, header, claims: unsigned({**header, "alg": "none"}, claims), "unsupported_algorithm"),
    "not signed, as it says": (lambda _, header, claims: unsigned(header, claims), "bad_signature"),
    "by the public key": (_by_the_public_key, "unsupported_algorithm"),
    "by somebody": (_by_somebody, "bad_signature"),
    "by a key of its own": (_by_a_key_of_its_own, "invalid_key_type"),
    "no token": (lambda *_: "nonsense", "decode_error"),
    "no text": (lambda *_: 7, "decode_error"),
}
"""Tokens that lie, and the reason for which each is refused."""
