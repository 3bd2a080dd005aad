"""The tables of a fleet, as SQLite and PostgreSQL take them."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, hash TEXT NOT NULL, role TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS devices (
  id TEXT PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, key_hash TEXT NOT NULL,
  expires DOUBLE PRECISION, target TEXT NOT NULL, ring INTEGER, added DOUBLE PRECISION NOT NULL,
  wanted TEXT, number BIGINT NOT NULL, reported TEXT, outcome TEXT NOT NULL, detail TEXT NOT NULL,
  selftest TEXT, seen DOUBLE PRECISION
);
CREATE TABLE IF NOT EXISTS models (
  digest TEXT PRIMARY KEY, sequence BIGINT NOT NULL UNIQUE, name TEXT NOT NULL,
  bytes BIGINT NOT NULL, manifest TEXT NOT NULL, signature TEXT, published DOUBLE PRECISION NOT NULL
);
CREATE TABLE IF NOT EXISTS rollouts (
  id BIGINT PRIMARY KEY, model TEXT NOT NULL, target TEXT NOT NULL, rings TEXT NOT NULL,
  state TEXT NOT NULL, ring INTEGER NOT NULL, soaked DOUBLE PRECISION NOT NULL,
  reason TEXT NOT NULL, started DOUBLE PRECISION NOT NULL, ended DOUBLE PRECISION
);
CREATE TABLE IF NOT EXISTS assignments (
  rollout BIGINT NOT NULL, device TEXT NOT NULL, ring INTEGER NOT NULL, status TEXT NOT NULL,
  number BIGINT NOT NULL, earlier TEXT, changed DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (rollout, device)
);
CREATE INDEX IF NOT EXISTS assignments_of_devices ON assignments (device, rollout);
CREATE INDEX IF NOT EXISTS assignments_by_status ON assignments (rollout, ring, status);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  id BIGINT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, kind TEXT NOT NULL, rollout BIGINT,
  device TEXT, detail TEXT NOT NULL
);
"""
