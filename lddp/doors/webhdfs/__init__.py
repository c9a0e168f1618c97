"""Hadoop's WebHDFS REST API (`/webhdfs/v1`), as the Hadoop project specifies it, over a node.

Source: "WebHDFS REST API" and "HttpFS" of the Hadoop documentation, release 3. As in HttpFS, the server that is asked
has the bytes too: a redirect leads back to it, and OPEN and GETFILECHECKSUM are answered at once.
"""
