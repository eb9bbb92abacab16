//! The same interfaces as later versions name them: what they do is written once.

use crate::{
    instance::State,
    worlds::{imports, imports_0_2, imports_0_3},
};

macro_rules! as_before {
    ($newer:ident) => {
        impl $newer::clock::Host for State {
            fn now_ms(&mut self) -> u64 {
                imports::clock::Host::now_ms(self)
            }
        }

        impl $newer::metrics::Host for State {
            fn add(&mut self, name: String, value: u64) {
                imports::metrics::Host::add(self, name, value);
            }
        }

        impl $newer::log::Host for State {
            fn write(&mut self, level: $newer::log::Level, message: String) {
                let level = match level {
                    $newer::log::Level::Debug => imports::log::Level::Debug,
                    $newer::log::Level::Info => imports::log::Level::Info,
                    $newer::log::Level::Warn => imports::log::Level::Warn,
                    $newer::log::Level::Error => imports::log::Level::Error,
                };
                imports::log::Host::write(self, level, message);
            }
        }

        impl $newer::connection::Host for State {
            fn source_address(&mut self) -> String {
                imports::connection::Host::source_address(self)
            }

            fn source_port(&mut self) -> u16 {
                imports::connection::Host::source_port(self)
            }

            fn destination_address(&mut self) -> String {
                imports::connection::Host::destination_address(self)
            }

            fn destination_port(&mut self) -> u16 {
                imports::connection::Host::destination_port(self)
            }

            fn source_identity(&mut self) -> u32 {
                imports::connection::Host::source_identity(self)
            }

            fn source_labels(&mut self) -> Vec<String> {
                imports::connection::Host::source_labels(self)
            }
        }
    };
}

as_before!(imports_0_2);
as_before!(imports_0_3);
