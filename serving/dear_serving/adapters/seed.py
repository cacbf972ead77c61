"""The settings file's adapters, taken into the registry before anything starts."""

from __future__ import annotations

from dear_serving.adapters.intake import intake
from dear_serving.adapters.preflight import adapter_folder, base_shape, base_source
from dear_serving.adapters.revisions import Adapters
from dear_serving.errors import RequestError, SettingsError
from dear_serving.registry.database import open_database
from dear_serving.settings import Settings


def seed(settings: Settings) -> None:
    """Keep the adapters that the settings name, and have the registry serve them; see Adapters.seed.

    Raises:
        StartupError: one cannot be served, or the registry or the store cannot be written; one sentence.
    """
    database = open_database(settings.registry.url)
    try:
        taking = intake(settings, base_shape(base_source(settings)))
        Adapters(database, settings.adapters.capacity).seed(
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
