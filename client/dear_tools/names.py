"""What models, adapters, templates and tenants may be called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

_PART = "[A-Za-z0-9][A-Za-z0-9._-]*"

Name = Annotated[str, Field(max_length=128, pattern=f"^{_PART}(/{_PART})*$")]
"""A model or adapter: letters, digits, ``. _ -`` in parts with slashes between; each begins with a letter or
digit, so that no part is ``..``."""

TemplateName = Annotated[str, Field(max_length=128, pattern=f"^{_PART}$")]
"""A prompt template: one such part."""

TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A tenant: small letters, digits, ``_ -``, at most 63 characters."""
