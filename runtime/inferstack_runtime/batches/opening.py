"""Opens the database that a configuration names, and the store of a process in it."""

from pathlib import Path

from inferstack_runtime.batches.database import Database
from inferstack_runtime.batches.postgres import PostgresDatabase
from inferstack_runtime.batches.sqlite import SqliteDatabase
from inferstack_runtime.batches.store import BatchStore
from inferstack_runtime.config import RuntimeConfig
from inferstack_runtime.lifecycle.sources import cache_folder


def open_database(url: str) -> Database:
    """Open `sqlite:///PATH` or `postgresql://…` and make its tables; raises DatabaseDown."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(Path(url.removeprefix("sqlite:///")))
    return PostgresDatabase(url)


def database_url(config: RuntimeConfig) -> str:
    """The configured database, else a SQLite file of this slot in the cache folder."""
    if config.batches.url is not None:
        return config.batches.url
    path: Path = cache_folder(config.weight_cache) / "batches" / f"{config.identity.environment}-{config.identity.slot}.sqlite"
    return f"sqlite:///{path}"


def open_store(config: RuntimeConfig) -> BatchStore:
    """The store; a SQLite file belongs to one process, so what a former one left running is pending again. Raises DatabaseDown."""
    url = database_url(config)
    store = BatchStore(open_database(url))
    if url.startswith("sqlite:"):
        store.recover()
    return store
