"""A store of schema version 1 as the code of that version made it: its own SQL, and a few rows."""

from __future__ import annotations

import sqlalchemy as sa

SALT = "00112233445566778899aabbccddeeff"
_TABLES = """
CREATE TABLE segue_erased (user_hash VARCHAR(64) NOT NULL, PRIMARY KEY (user_hash));
CREATE TABLE segue_events (
    sequence {serial} NOT NULL, event_id VARCHAR(200) NOT NULL, user_id VARCHAR(512) NOT NULL,
    user_hash VARCHAR(64) NOT NULL, item_id VARCHAR(512) NOT NULL, timestamp BIGINT NOT NULL,
    action VARCHAR(200), received_at BIGINT NOT NULL, PRIMARY KEY (sequence), UNIQUE (event_id)
);
CREATE INDEX ix_segue_events_user_id ON segue_events (user_id);
CREATE TABLE segue_exposures (
    sequence {serial} NOT NULL, user_hash VARCHAR(64), arm VARCHAR(100), path VARCHAR(32) NOT NULL,
    bundle VARCHAR(64) NOT NULL, deployment BIGINT, item_ids TEXT NOT NULL, fallback TEXT,
    shown_at FLOAT NOT NULL, PRIMARY KEY (sequence)
);
CREATE INDEX ix_segue_exposures_user_hash ON segue_exposures (user_hash);
CREATE TABLE segue_histories (
    user_id VARCHAR(512) NOT NULL, item_ids TEXT NOT NULL, timestamps TEXT NOT NULL, PRIMARY KEY (user_id)
);
CREATE TABLE segue_snapshots (
    sha256 VARCHAR(64) NOT NULL, imported_at BIGINT NOT NULL, users BIGINT NOT NULL, events BIGINT NOT NULL,
    PRIMARY KEY (sha256)
);
CREATE TABLE segue_store (key VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key));
INSERT INTO segue_store VALUES ('schema_version', '1');
INSERT INTO segue_store VALUES ('user_salt', '{salt}');
INSERT INTO segue_store VALUES ('snapshot', 'cafe');
INSERT INTO segue_snapshots VALUES ('cafe', 1, 1, 2);
INSERT INTO segue_histories VALUES ('u00', '["i001", "i002"]', '[10, 20]');
INSERT INTO segue_erased VALUES ('{erased}');
INSERT INTO segue_events (event_id, user_id, user_hash, item_id, timestamp, action, received_at)
    VALUES ('a', 'u00', '{hash}', 'i003', 30, 'buy', 31);
"""
EXPOSURES = 1200


def make_version_1(url: str, user_hash: str, erased: str) -> None:
    """Write the store into the empty database at ``url``: :data:`EXPOSURES` exposures of ``user_hash`` in it."""
    engine = sa.create_engine(url)
    serial = "INTEGER" if engine.dialect.name == "sqlite" else "BIGSERIAL"
    script = _TABLES.format(serial=serial, salt=SALT, hash=user_hash, erased=erased)
    with engine.begin() as connection:
        for statement in script.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        connection.execute(
            sa.text(
                "INSERT INTO segue_exposures (user_hash, arm, path, bundle, deployment, item_ids, fallback, "
                "shown_at) VALUES (:user, :arm, 'cascade', 'b', 1, :items, NULL, :shown)"
            ),
            [
                {
                    "user": user_hash if number % 2 else None,
                    "arm": "control" if number % 3 else None,
                    "items": f'["i{number:04d}"]',
                    "shown": number + 0.25,
                }
                for number in range(EXPOSURES)
            ],
        )
    engine.dispose()
