"""Registers the settings file's adapters before anything starts."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from dear_serving.adapters.intake import intake
from dear_serving.adapters.preflight import adapter_folder, base_shape, base_source
from dear_serving.adapters.revisions import Adapters
from dear_serving.adapters.store import UNFINISHED
from dear_serving.errors import RequestError, SettingsError
from dear_serving.registry.database import Database, open_database
from dear_serving.settings import RegistrySettings, Settings

_ABANDONED_S = 3600.0


def register_configured(settings: Settings) -> None:
    """Store and register the adapters in the settings; see Adapters.register_configured.

    Raises:
        StartupError: an adapter cannot be served, or the registry or the store cannot be written.
    """
    _sweep(settings.adapters.cache)
    database = open_registry(settings.registry)
    try:
        adapter_intake = intake(settings, base_shape(base_source(settings), settings.adapters.bases))
        Adapters(database, settings.adapters.capacity, cluster=settings.registry.cluster).register_configured(
            {
                adapter.name: (
                    adapter_intake.take(adapter.name, str(adapter_folder(settings, adapter))),
                    adapter.template,
                    adapter.shared,
                )
                for adapter in settings.adapters.serve
            }
        )
    except RequestError as error:
        raise SettingsError(error.message) from None
    finally:
        database.close()


def open_registry(settings: RegistrySettings) -> Database:
    """The registry as the settings say; see open_database."""
    return open_database(settings.url, migrate=settings.migrate, pool_size=settings.pool_size)


def _sweep(cache: Path) -> None:
    """Remove unfinished copies of killed processes; newer folders may still be in use."""
    for folder in cache.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
