//! tidegate-plugin-dns
