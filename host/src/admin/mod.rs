//! The local API over a Unix socket, and the metrics endpoint. Reads snapshots only.
