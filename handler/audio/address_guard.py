"""Refuse the hosts of downloads and uploads that have addresses in private or special networks.

The RunPod SDK looks names up and checks each address by the tables of Python's `ipaddress`, which lack several networks
up to Python 3.11.9 and know nothing of addresses that a cloud gives to its own services. The networks below are checked
in addition. The caller must connect to the addresses that `resolve` returns, without another lookup, because a name
server may give a different answer the next time.

A host that is unknown and one that is not public have the same error. Otherwise, a caller could find out the names of
an internal network.

Sources: IANA's registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890), and the clouds' documents on the
addresses of their metadata services.
"""

import ipaddress
import os
import socket

from handler.audio.urls import split_http_url
from handler.errors import AsrError, DownloadBlocked, DownloadFailed, InvalidRequest
from handler.runpod_sdk import import_sdk

GUARD = "runpod.serverless.utils.rp_ssrf"
ALLOW_PRIVATE = "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS"  # the SDK's variable that turns the guard off
NOT_PUBLIC = "expected a host that is known and whose addresses are all public"
_UNKNOWN = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)  # what a lookup of a name without host returns
_BLOCKED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata service
        "127.0.0.0/8",
        "161.26.0.0/16",  # IBM Cloud's services, which are reached from inside only
        "166.8.0.0/14",  # the same
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.80.8.124/32",  # Equinix Metal's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
# Every other network of IPv6 is special: loopback, IPv4-compatible, NAT64, unique local, link-local, site-local, …
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which contains any address of IPv4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone
        "3fff::/20",  # documentation
    )
)


def is_public(text: str) -> bool:
    """Return whether a text is the IP address of a host that anybody on the internet may reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_V4)
    if address.ipv4_mapped is not None:
        return is_public(str(address.ipv4_mapped))
    return address in _GLOBAL_V6 and not any(address in network for network in _BLOCKED_V6)


def resolve(url: str, safe_url: str) -> list[str] | None:
    """Return the IP addresses of the host of an http or https URL, after checking that all of them are public.

    Return None if the connection has to be made by a proxy, which is possible only if private addresses are allowed.
    Raises InvalidRequest for another URL, DownloadBlocked, and DownloadFailed if the lookup of the name fails. Their
    messages show `safe_url`, which must be free of credentials.
    """
    from requests.utils import get_environ_proxies, select_proxy

    host_and_port = split_http_url(url)
    if host_and_port is None:
        expected = "expected http:// or https:// and a host, also where it redirects to"
        raise InvalidRequest(f"{safe_url}: {expected}", "url")
    guard = import_sdk(GUARD)
    if select_proxy(url, get_environ_proxies(url)):
        if _allows_private():
            return None
        raise DownloadBlocked(f"{safe_url}: expected an address that is reached without a proxy")
    try:
        addresses: list[str] = guard.resolve_and_validate(*host_and_port)
    except guard.SSRFError as exc:
        raise _refusal(exc.__cause__, safe_url) from None
    except ValueError:  # no name can look like this
        raise DownloadBlocked(f"{safe_url}: {NOT_PUBLIC}") from None
    if not _allows_private() and not all(map(is_public, addresses)):
        raise DownloadBlocked(f"{safe_url}: {NOT_PUBLIC}")
    return addresses


def _refusal(cause: BaseException | None, safe_url: str) -> AsrError:
    """Return the error for a host that the SDK refuses. `cause` is the error of the lookup, if there was one."""
    if isinstance(cause, socket.gaierror) and cause.errno not in _UNKNOWN:
        return DownloadFailed(f"{safe_url}: the name of its host could not be looked up")
    return DownloadBlocked(f"{safe_url}: {NOT_PUBLIC}")


def _allows_private() -> bool:
    return os.environ.get(ALLOW_PRIVATE, "").strip().lower() in ("1", "true", "yes")
