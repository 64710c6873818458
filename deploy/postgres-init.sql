-- Dagster's database and the operational store are apart: one is restored without the other.
CREATE DATABASE dagster;
