"""Which sites may send requests where no key is asked for: a browser here sends those of any page that it shows.

A page of another site can post to a loopback address (a "simple" request is sent without asking), and a name that is
rebound to one makes its page of the same origin. Browsers say in `Origin` and `Host` whose a request is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from feedback_loop.config import ServingSettings
from feedback_loop.serving.guard import needs_key
from feedback_loop.serving.http_errors import HttpError

LOCAL = ("localhost", "*.localhost")
"""Names that nobody can rebind."""

FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")
"""What proxies add to requests."""

_PROXIED = "proxied"

_log = structlog.get_logger(__name__)


class Origins:
    """Refuses requests without a host, and (where no key is asked for) those of another site.

    `proxied` is called with the first request that a proxy has forwarded although no key is asked for.
    """

    def __init__(self, settings: ServingSettings, proxied: Callable[[str], None]) -> None:
        self._is_open = not needs_key(settings)
        self._allowed = (*LOCAL, settings.host.lower(), *(host.lower() for host in settings.allowed_hosts))
        self._proxied: Callable[[str], None] | None = proxied
        self._known: set[str] = set()

    def check(self, headers: Any) -> None:
        """Raises HttpError: 400 for no host, several or another's; 403 for another site's page."""
        hosts = headers.get_all("host")
        if len(hosts) != 1 or not hosts[0]:
            raise HttpError(400, "BAD_REQUEST", f"A request has one Host header, and this one has {len(hosts)}.")
        if not self._is_open:
            return
        if hosts[0] not in self._known:
            self._refuse_foreign(hosts[0])
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(_hostname(origin)):
            message = "Pages of other sites may not send requests here. Name their host in serving.allowed_hosts."
            raise HttpError(403, "PERMISSION_DENIED", message)
        if self._proxied is not None:
            for name in FORWARDED:
                if headers.get(name) is not None:
                    self._proxied(name)
                    self._proxied = None
                    break

    def _refuse_foreign(self, host: str) -> None:
        if not self._is_allowed(_hostname(f"//{host}")):
            message = "That Host is not served without a key. Name it in serving.allowed_hosts, or ask for keys."
            raise HttpError(400, "BAD_REQUEST", message)
        if len(self._known) < _MOST_KNOWN:
            self._known.add(host)

    def _is_allowed(self, name: str | None) -> bool:
        if name is None:
            return False
        if any(fnmatchcase(name, allowed) for allowed in self._allowed):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True  # an address is nobody's name: it can't be rebound


_MOST_KNOWN = 100


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
        name = parts.hostname
    except ValueError:
        return None
    if name is None or parts.username is not None or parts.path.strip("/"):
        return None
    return name.rstrip(".")


def tell_proxied(cache: Path, header: str) -> None:
    """Writes down that a proxy forwards requests to a server that asks for no key, for `doctor` to tell."""
    _log.warning("requests are forwarded to a server that asks for no key", header=header, cure=PROXIED_CURE)
    cache.mkdir(parents=True, exist_ok=True)
    (cache / _PROXIED).write_text(f"{header} {datetime.now(UTC).isoformat(timespec='seconds')}\n")


def read_proxied(cache: Path) -> str:
    """What was written down, empty where nothing was."""
    path = cache / _PROXIED
    return path.read_text().strip() if path.exists() else ""


def forget_proxied(cache: Path) -> None:
    """A server that begins has seen nothing yet."""
    (cache / _PROXIED).unlink(missing_ok=True)


PROXIED_CURE = 'Set serving.require_key = "always": whoever reaches the proxy needs no key.'
