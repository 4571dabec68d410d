"""The modules of Metaflow's that modules of ours stand in for, by the way that Metaflow has for it."""

__mf_promote_submodules__ = ["client.filecache"]
