"""The admin routes as values: tenants, keys, adapters, replicas, the audit trail. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel

from dear_client.calls import path_of, read_list, read_model
from dear_client.exchange import Call, Pages
from dear_client.models import Adapter, Change, Key, Replica, Revision, Tenant

M = TypeVar("M", bound=BaseModel)

_STAGING_S = 150.0
_PAGE = 1000


class Limits(TypedDict, total=False):
    """A tenant's share and limits; None takes a limit away, what is left out stays as it is."""

    weight: float
    requests_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    highest_priority: int | None
    max_prompt_tokens: int | None


class AdminCalls:
    """What an administrator can ask for. Every call raises ClientError where the server says no."""

    def tenants(self) -> Pages[Tenant]:
        """All tenants, by id."""
        return _pages(Tenant, "/tenants")

    def tenant(self, tenant: str) -> Call[Tenant]:
        """One tenant."""
        return _call("GET", path_of("tenants", tenant), Tenant)

    def create_tenant(self, tenant: str, **limits: Unpack[Limits]) -> Call[Tenant]:
        """Create a tenant: weight 1 and no limits where none are given."""
        return _call("POST", "/tenants", Tenant, {"id": tenant, **limits})

    def set_tenant(self, tenant: str, **limits: Unpack[Limits]) -> Call[Tenant]:
        """Change weight and limits, those given."""
        return _call("PATCH", path_of("tenants", tenant), Tenant, {**limits}, is_repeatable=True)

    def delete_tenant(self, tenant: str) -> Call[None]:
        """Remove a tenant with its keys and grants."""
        return _nothing("DELETE", path_of("tenants", tenant))

    def grant(self, tenant: str, adapter: str) -> Call[Tenant]:
        """Let a tenant use an adapter that is not shared."""
        body = {"adapter": adapter}
        return _call("POST", path_of("tenants", tenant, "grants"), Tenant, body, is_repeatable=True)

    def ungrant(self, tenant: str, adapter: str) -> Call[Tenant]:
        """Take an adapter from a tenant."""
        return _call("DELETE", path_of("tenants", tenant, "grants", adapter), Tenant)

    def keys(self, tenant: str) -> Call[list[Key]]:
        """A tenant's keys without their texts, oldest first."""
        path = f"/admin/v1{path_of('tenants', tenant, 'keys')}"
        return Call("GET", path, lambda reply: read_list(Key, reply)[0], as_admin=True)

    def create_key(self, tenant: str, label: str = "", expires_in_s: float | None = None) -> Call[Key]:
        """A new key; its text is in ``key``, this once. Without ``expires_in_s`` it works until revoked."""
        body = {"label": label} | ({} if expires_in_s is None else {"expires_in_s": expires_in_s})
        return _call("POST", path_of("tenants", tenant, "keys"), Key, body)

    def rotate_key(self, key: str, overlap_s: float = 3600.0) -> Call[Key]:
        """A new key in place of one, by its id, that goes on working for ``overlap_s`` seconds."""
        return _call("POST", path_of("keys", key, "rotate"), Key, {"overlap_s": overlap_s})

    def revoke_key(self, key: str) -> Call[Key]:
        """Shut a key out, by its id, for good."""
        return _call("DELETE", path_of("keys", key), Key)

    def adapters(self) -> Pages[Adapter]:
        """All adapters, by name."""
        return _pages(Adapter, "/adapters")

    def adapter(self, name: str) -> Call[Adapter]:
        """An adapter with its revisions, and the engine replicas that hold them."""
        return _call("GET", path_of("adapters", name), Adapter)

    def register_adapter(
        self,
        name: str,
        source: str,
        *,
        activate: bool = False,
        template: str | None = None,
        tenants: Sequence[str] = (),
        shared: bool | None = None,
    ) -> Call[Revision]:
        """Check an adapter, keep it as a revision, and stage it on every engine: may take a minute or two.

        Args:
            source: a folder in the server's ``adapters.root``, or a URL under one of ``adapters.sources``.
            activate: whether it serves the name as soon as it is staged.
            template: the prompt it was trained with; else that of the name's active revision, else plain.
            tenants: the only ones who may use a new name, unless ``shared``.
        """
        body: dict[str, Any] = {"name": name, "source": source, "activate": activate}
        body |= {} if template is None else {"template": template}
        body |= {} if shared is None else {"shared": shared}
        body |= {"tenants": list(tenants)} | ({} if shared else {"shared": False}) if tenants else {}
        return _call("POST", "/adapters", Revision, body, answer_s=_STAGING_S, is_repeatable=True)

    def activate_adapter(self, name: str, revision: str) -> Call[Revision]:
        """Let a name stand for a revision: its id, or the beginning of its digest."""
        return self._swap(name, "activate", {"revision": revision})

    def rollback_adapter(self, name: str) -> Call[Revision]:
        """Let a name stand for the revision before."""
        return self._swap(name, "rollback", {})

    def retire_adapter(self, name: str, revision: str | None = None) -> Call[Adapter]:
        """Take a revision, or a name with all of its revisions, out of service."""
        body = {} if revision is None else {"revision": revision}
        return _call("POST", path_of("adapters", name, "retire"), Adapter, body)

    def share_adapter(self, name: str, shared: bool = True) -> Call[Adapter]:
        """Open an adapter to every tenant, or leave it to those with a grant."""
        return _call("PATCH", path_of("adapters", name), Adapter, {"shared": shared}, is_repeatable=True)

    def replicas(self) -> Call[list[Replica]]:
        """The gateways and engines that run, gateways first, with their states, loads and revisions."""
        path = "/admin/v1/replicas"
        return Call("GET", path, lambda reply: read_list(Replica, reply)[0], as_admin=True)

    def audit(self, limit: int = 20) -> Call[list[Change]]:
        """Who changed what, newest first; at most 1000."""
        path = f"/admin/v1/audit?limit={limit}"
        return Call("GET", path, lambda reply: read_list(Change, reply)[0], as_admin=True)

    def _swap(self, name: str, action: str, body: dict[str, Any]) -> Call[Revision]:
        return _call("POST", path_of("adapters", name, action), Revision, body, answer_s=_STAGING_S)


def _call(
    method: str,
    path: str,
    kind: type[M],
    body: Mapping[str, Any] | None = None,
    *,
    answer_s: float | None = None,
    is_repeatable: bool = False,
) -> Call[M]:
    return Call(
        method,
        f"/admin/v1{path}",
        lambda reply: read_model(kind, reply),
        body,
        is_repeatable=is_repeatable or method == "GET",
        as_admin=True,
        answer_s=answer_s,
    )


def _nothing(method: str, path: str) -> Call[None]:
    return Call(method, f"/admin/v1{path}", lambda reply: None, is_repeatable=False, as_admin=True)


def _pages(kind: type[M], path: str) -> Pages[M]:
    def page(after: str) -> Call[tuple[list[M], str | None]]:
        query = f"?limit={_PAGE}&after={quote(after, safe='')}"
        return Call("GET", f"/admin/v1{path}{query}", lambda reply: read_list(kind, reply), as_admin=True)

    return Pages(page)
