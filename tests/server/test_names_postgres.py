"""Names of speakers in a real PostgreSQL, which has types where SQLite has none."""

import pytest

from server.names import SpeakerNames
from server.store import StoreError, TranscriptStore
from tests.server.postgres_cluster import reason_without_postgres, running_cluster
from tests.server.store_units import record

NO_POSTGRES = reason_without_postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES)),
]


async def test_names_are_kept_and_go_with_their_session() -> None:
    with running_cluster() as cluster:
        store = await TranscriptStore.open(cluster.url, server_id="one")
        try:
            await store.create_session(record("a"))
            names = SpeakerNames(store)
            assert await names.of("a") == {}
            await names.give("a", {"S1": "Ann", "S2": "„Ben“"})
            assert await names.give("a", {"S1": None}) == {"S2": "„Ben“"}
            with pytest.raises(StoreError, match="no session"):
                await names.give("b", {"S1": "Ann"})
            await store.delete_session("a")
            assert await SpeakerNames(store).of("a") == {}
        finally:
            await store.close()
