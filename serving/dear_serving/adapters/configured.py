"""The settings file's adapters, taken into the registry before anything starts."""

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
from dear_serving.registry.database import open_database
from dear_serving.settings import Settings

_ABANDONED_S = 3600.0


def register_configured(settings: Settings) -> None:
    """Keep the adapters that the settings name, and have the registry serve them; see Adapters.seed.

    Raises:
        StartupError: one cannot be served, or the registry or the store cannot be written; one sentence.
    """
    _sweep(settings.adapters.cache)
    database = open_database(settings.registry.url)
    try:
        taking = intake(settings, base_shape(base_source(settings), settings.adapters.bases))
        Adapters(database, settings.adapters.capacity).register_configured(
            {
                one.name: (
                    taking.take(one.name, str(adapter_folder(settings, one))),
                    one.template,
                    one.shared,
                )
                for one in settings.adapters.serve
            }
        )
    except RequestError as error:
        raise SettingsError(error.message) from None
    finally:
        database.close()


def _sweep(cache: Path) -> None:
    """Drop what processes that were killed left half-way; younger folders may be somebody's work."""
    for folder in cache.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process does the same
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
