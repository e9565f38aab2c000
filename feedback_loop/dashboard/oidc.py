"""The provider of OpenID Connect that people sign in at: authorization code with PKCE, and what it says of them.

Everything is asked for anew at each sign-in, its keys too: nothing of it can be out of date. Nothing is followed to
another address, and what is not signed by the provider for these pages, now and for this attempt, is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode, urlsplit

from feedback_loop.config import OidcSettings, Settings
from feedback_loop.dashboard.rights import EMAIL, texts_at, value_at
from feedback_loop.dashboard.sessions import Attempt
from feedback_loop.errors import ConfigError, Refused, Unavailable

CALLBACK = "/sign-in/oidc/callback"

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that only the provider can make: none, and those by a shared secret, are not among them."""

TIMEOUT_SECONDS = 5.0
LEEWAY_SECONDS = 60
"""So far the clocks of the provider and this host may be apart."""

LONGEST_NAME = 200

_DISCOVERY = "/.well-known/openid-configuration"
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_OTHER_ENDPOINTS = ("userinfo_endpoint", "end_session_endpoint")


@dataclass(frozen=True)
class Person:
    """Who has signed in: the name that their acts are recorded under, what is said of them, the token as it came."""

    name: str
    claims: Mapping[str, Any]
    id_token: str


class Provider:
    """Speaks with the provider. All its methods raise Unavailable where it does not answer, and Refused."""

    def __init__(self, settings: OidcSettings, pages: str) -> None:
        self._settings, self._pages = settings, pages.rstrip("/")
        self.title, self.issuer, self.rules = settings.title, settings.issuer, settings.rules
        self.is_secure = self._pages.startswith("https://")
        self.host = urlsplit(settings.issuer).netloc

    async def begin(self, attempt: Attempt) -> str:
        """The address that a browser is sent to."""
        async with self._client() as client:
            metadata = await self._metadata(client)
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url)

    async def finish(self, attempt: Attempt, code: str) -> Person:
        """Who has come back with a code."""
        async with self._client() as client:
            metadata = await self._metadata(client)
            token = await client.fetch_token(
                metadata["token_endpoint"],
                grant_type="authorization_code",
                code=code,
                code_verifier=attempt.verifier,
                redirect_uri=self._pages + CALLBACK,
                auth=client.client_auth(_authentication(self._settings, metadata)),
            )
            keys = await _json(client, metadata["jwks_uri"])
            claims = self._verified(token, keys, attempt.nonce)
            if self._misses(claims) and "userinfo_endpoint" in metadata:
                claims = await self._completed(client, metadata["userinfo_endpoint"], claims)
        return Person(self._name(claims), claims, token["id_token"])

    async def end(self, id_token: str) -> str | None:
        """The address that signs somebody out at the provider too, and leads back; None where it has none."""
        async with self._client() as client:
            metadata = await self._metadata(client)
        if "end_session_endpoint" not in metadata:
            return None
        query = {"client_id": self._settings.client_id, "post_logout_redirect_uri": f"{self._pages}/sign-in"}
        query |= {"id_token_hint": id_token} if id_token else {}
        endpoint = metadata["end_session_endpoint"]
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    def check(self) -> str:
        """For `doctor`: whether it can be reached, and is what the configuration says."""
        return asyncio.run(self._check())

    async def _check(self) -> str:
        async with self._client() as client:
            metadata = await self._metadata(client)
            keys = (await _json(client, metadata["jwks_uri"])).get("keys") or []
        if not keys:
            raise Refused(
                f"{self.host} publishes no keys that its tokens could be verified by.", cure="Mend it there."
            )
        if not self.rules:
            raise Refused("Nobody gets in by OpenID Connect.", cure="Say who: [[dashboard.oidc.rules]].")
        return f"people sign in at {self.issuer}, whose tokens are verified by these keys of it: {len(keys)}"

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """A client of the provider; what goes wrong with it is told in our errors, without its own words."""
        from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuthError
        from httpx2 import HTTPError, HTTPStatusError, InvalidURL

        settings = self._settings
        client = AsyncOAuth2Client(
            settings.client_id,
            settings.client_secret.get_secret_value() or None,
            scope=" ".join(settings.scopes),
            redirect_uri=self._pages + CALLBACK,
            code_challenge_method="S256",
            timeout=TIMEOUT_SECONDS,
        )
        try:
            async with client:
                yield client
        except OAuthError as error:
            raise Refused(f"{self.host} did not accept it ({error.error}).", cure="Sign in anew.") from error
        except (HTTPError, InvalidURL, ValueError) as error:
            how = "answers no JSON" if isinstance(error, ValueError) else f"can't be reached ({type(error).__name__})"
            if isinstance(error, HTTPStatusError):
                how = f"answers {error.response.status_code}"
            cause = f"{self.host}, where people sign in, {how}."
            raise Unavailable("oidc", cause, cure="Is it up, and is dashboard.oidc.issuer right?") from error

    async def _metadata(self, client: Any) -> dict[str, Any]:
        """What the provider says of itself: it has to be the configured one, no address of it in the clear."""
        metadata = await _json(client, self.issuer.rstrip("/") + _DISCOVERY)
        if metadata.get("issuer") != self.issuer:
            cause = f"{self.host} writes itself {metadata.get('issuer')!r} in its tokens, and not {self.issuer!r}."
            raise Refused(cause, cure="Write dashboard.oidc.issuer as it does.")
        for name in _OTHER_ENDPOINTS:
            if not metadata.get(name):
                metadata.pop(name, None)
        for name in (*_ENDPOINTS, *(name for name in _OTHER_ENDPOINTS if name in metadata)):
            scheme = urlsplit(str(metadata.get(name))).scheme
            if scheme != "https" and scheme != urlsplit(self.issuer).scheme:
                raise Refused(f"{self.host} names no safe {name}.", cure="Is it a provider of OpenID Connect?")
        return metadata

    def _verified(self, token: Mapping[str, Any], keys: dict[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of an ID token that the provider has signed for us, now, for this attempt."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import ClaimError, JoseError
        from joserfc.jws import JWSRegistry

        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        own = {"client_id": self._settings.client_id, "nonce": nonce, "access_token": token.get("access_token")}
        wanted = {
            "iss": {"essential": True, "value": self.issuer},
            "aud": {"essential": True, "value": self._settings.client_id},
        }
        try:
            decoded = jwt.decode(token["id_token"], _key_set(keys), registry=registry)
            claims = CodeIDToken(decoded.claims, decoded.header, wanted, own)
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            reason = error.error if isinstance(error, JoseError) else type(error).__name__
            reason += f": {error.claim}" if isinstance(error, ClaimError) else ""
            cause = f"What {self.host} says of who you are does not hold ({reason})."
            raise Refused(cause, cure="Sign in anew.") from error
        return dict(claims)

    def _misses(self, claims: Mapping[str, Any]) -> bool:
        """Whether something is not in the token that we ask of people; a provider may say it when asked alone."""
        wanted = {self._settings.name, *(rule.claim for rule in self.rules)}
        wanted |= {"email_verified"} if EMAIL in wanted else set()
        return any(value_at(claims, name) is None for name in wanted)

    async def _completed(self, client: Any, endpoint: str, claims: dict[str, Any]) -> dict[str, Any]:
        """With what the provider says when it is asked, which must be of the same person; the token goes first."""
        more = await _json(client, endpoint, withhold_token=False)
        if more.get("sub") != claims["sub"]:
            raise Refused(f"{self.host} speaks of two people at once.", cure="Sign in anew.")
        return {**more, **claims}

    def _name(self, claims: Mapping[str, Any]) -> str:
        """What somebody's acts are recorded under."""
        for name in (*texts_at(claims, self._settings.name), *texts_at(claims, "sub")):
            if name.strip() and name.isprintable() and len(name) <= LONGEST_NAME:
                return name
        raise Refused(f"{self.host} gives you no name that can be written down.", cure="Set dashboard.oidc.name.")


def provider_of(settings: Settings, find: Callable[[str], object | None] = find_spec) -> Provider | None:
    """The provider of the configuration, if there is one; raises ConfigError where its packages are missing."""
    oidc = settings.dashboard.oidc
    if oidc is None:
        return None
    if any(find(package) is None for package in ("authlib", "httpx2", "joserfc")):
        raise ConfigError(
            "dashboard.oidc needs packages that are not installed.",
            cure="Install them: pip install 'feedback-loop[oidc]'.",
            key="dashboard.oidc",
        )
    return Provider(oidc, settings.dashboard.url)


def checks_of(settings: Settings) -> dict[str, Callable[[], str]]:
    """What `doctor` looks at of this: nothing, where no provider is configured."""

    def look() -> str:
        provider = provider_of(settings)
        assert provider is not None
        return provider.check()

    return {"sign-in": look} if settings.dashboard.oidc is not None else {}


async def _json(client: Any, url: str, *, withhold_token: bool = True) -> dict[str, Any]:
    """The object that is at an address; no other address is followed."""
    answer = await client.request("GET", url, withhold_token=withhold_token)
    answer.raise_for_status()
    content = answer.json()
    if not isinstance(content, dict):
        raise ValueError("no object")  # noqa: TRY004 (of what came, as JSON that can't be read is)
    return content


def _key_set(keys: Mapping[str, Any]) -> Any:
    """Those of a provider's keys that verify signatures, of kinds that we know."""
    from joserfc.jwk import KeySet

    known = [key for key in keys.get("keys") or [] if key.get("kty") in ("RSA", "EC", "OKP")]
    return KeySet.import_key_set({"keys": [key for key in known if key.get("use") != "enc"]})


def _authentication(settings: OidcSettings, metadata: Mapping[str, Any]) -> str:
    """How we show who we are: by the header, where the provider takes that (it does if it says nothing), or not."""
    if not settings.client_secret.get_secret_value():
        return "none"
    methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
