"""A finished run in the browser, from a small server on this machine; see docs/explorer.md."""
