"""Metaflow's paths and its dictionaries over our tables, in both directions; no Metaflow."""
