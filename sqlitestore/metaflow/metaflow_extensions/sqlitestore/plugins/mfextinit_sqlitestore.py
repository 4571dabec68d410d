"""What the plug-in adds to Metaflow, or overrides where Metaflow only knows datastores of its own."""

DATASTORES_DESC = [("sqlite", ".storage.SQLiteDatastoreStorage")]
METADATA_PROVIDERS_DESC = [("sqlite", ".provider.SQLiteMetadataProvider")]
DATACLIENTS_DESC = [("sqlite", ".dataclient.SQLiteDataClient")]
CLIS_DESC = [("card", ".cards.cli")]
ENVIRONMENTS_DESC = [
    ("conda", ".environments.SQLiteCondaEnvironment"),
    ("pypi", ".environments.SQLitePyPIEnvironment"),
]
ARTIFACT_SERIALIZERS_DESC = [
    ("sqlitestore-untrusted", ".serializers.UntrustedDeserializer"),
    ("sqlitestore-pickle", ".serializers.SQLitePickleSerializer"),
]
