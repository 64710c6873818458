"""Migrations of the operational store, applied by Alembic when a store is opened."""
