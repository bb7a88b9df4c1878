"""The steps from one form of a fog's database to the next, for Alembic; ``adapters/fog_database`` runs them."""
