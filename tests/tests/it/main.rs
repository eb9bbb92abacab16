//! Promises of Tidegate, one file each, on real traffic: everything below knows only
//! what a user has, the binary, its files and its command line.

mod audit;
mod bypass;
mod cleanup;
mod connections;
mod demo;
mod deny_list;
mod dns_names;
mod docs;
mod envoy_filters;
mod files;
mod fragments;
mod grpc;
mod host_services;
mod hostile;
mod http2;
mod http_options;
mod http_rules;
mod kafka;
mod kernel_rules;
mod kills;
mod lab;
mod link;
mod neighbours;
mod ordinary_node;
mod people;
mod plugins;
mod redis;
mod reference;
mod services;
mod shadow;
mod shop;
mod steering;
mod tls;
mod tls_ended;
mod tunnels;
