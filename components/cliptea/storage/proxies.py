"""Connections to a server, through the proxy that HTTPS_PROXY or HTTP_PROXY names, unless NO_PROXY excludes it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, unquote
from urllib.request import proxy_bypass

import urllib3
from requests.utils import get_environ_proxies
from urllib3.exceptions import LocationValueError
from urllib3.util import parse_url

from cliptea.errors import StorageError

__all__ = ["pool", "proxy_for"]


def proxy_for(url: SplitResult) -> str:
    """The proxy to the server of `url` as its variable names it, perhaps with a password; "" if there is none.

    This machine, and names without a dot, which only their own network knows, are reached directly.
    """
    if _is_near(url.hostname or "") or proxy_bypass(url.netloc):  # which also knows HOST:PORT for an IP address
        return ""
    return get_environ_proxies(url.geturl()).get(url.scheme, "")  # which also knows 10.0.0.0/8 in NO_PROXY


def _is_near(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def pool(url: SplitResult, **options: Any) -> urllib3.PoolManager:
    """A pool of connections to the server of `url`.

    Args:
        options: of `urllib3.PoolManager`.

    Raises:
        StorageError: the variable does not name a proxy. The error does not show it, because it may contain a password.
    """
    given = proxy_for(url)
    if not given:
        return urllib3.PoolManager(**options)
    try:
        proxy = parse_url(given if "://" in given else f"http://{given}")
        if not proxy.host:
            raise LocationValueError
        login = urllib3.make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else None
        return urllib3.ProxyManager(proxy._replace(auth=None).url, proxy_headers=login, **options)
    except (LocationValueError, UnicodeEncodeError):  # a header only takes latin-1
        raise StorageError(
            f"{url.scheme.upper()}_PROXY is not the address of a proxy",
            "http://HOST:PORT or https://HOST:PORT",
            f"correct it, or add {url.hostname} to NO_PROXY",
        ) from None
