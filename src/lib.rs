//! outboxd sends the rows of an outbox table as SMS and writes back what became of them.
//!
//! The layers, lowest first (`tests/it/layers.rs` keeps imports pointing down):
//! pure rules (`message`, `text`, `compose`, `verdict`, `policy`, `pace`, `config`, `clock`), edges (`store` to
//! PostgreSQL, `gateway` to HTTP), the `engine`, and the process around it (`daemon`, `cli`, `sim`).

pub mod config;
pub mod message;
pub mod sim;
pub mod verdict;
