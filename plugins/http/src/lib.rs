//! tidegate-plugin-http
