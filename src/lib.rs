//! outboxd sends the rows of an outbox table as SMS and writes back what became of them.
//!
//! The layers, lowest first (`tests/it/layers.rs` keeps imports pointing down):
//! pure rules (`message`, `text`, `compose`, `verdict`, `policy`, `pace`, `config`, `clock`), edges (`store` to
//! PostgreSQL, `gateway` to HTTP), the `engine`, and the process around it (`daemon`, `cli`, `sim`).

pub mod cli;
pub mod clock;
pub mod compose;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod gateway;
pub mod hop;
pub mod message;
pub mod metrics;
pub mod pace;
pub mod policy;
pub mod signal;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod verdict;
