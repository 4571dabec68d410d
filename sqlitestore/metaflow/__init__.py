"""The plug-in for Metaflow: datastore and metadata provider ``sqlite``, over the tables of one file.

What Metaflow sees are the classes in ``metaflow_extensions`` (in this folder, mapped to where Metaflow looks when the
package is built); what they do is in the modules beside it. An error while Metaflow loads a plug-in breaks ``import
metaflow`` altogether, and most processes that load it never touch a store: so those classes import nothing of ours
before they are called.
"""
