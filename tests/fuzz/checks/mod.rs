//! What must hold for bytes from outside, whatever they are: one function for each kind, used by the fuzz target of that
//! name and, for every file of the corpus, by `tests/it/fuzz_corpus.rs`.
//!
//! A check panics when outboxd does something that it must not do. Nothing here is random, and nothing leaves the process.

pub mod answer_http;
pub mod answer_v1;
pub mod answer_v2;
pub mod callback;
pub mod config;
pub mod connection;
pub mod log_in;
pub mod number;
pub mod reference;
pub mod row;
pub mod sender_list;
pub mod template;
pub mod text;

mod case;
mod site;
mod words;

/// A check and its name, which is also the name of its fuzz target and of its directory in the corpus.
pub type Named = (&'static str, fn(&[u8]));

pub const ALL: [Named; 13] = [
    ("answer_http", answer_http::check),
    ("answer_v1", answer_v1::check),
    ("answer_v2", answer_v2::check),
    ("callback", callback::check),
    ("config", config::check),
    ("connection", connection::check),
    ("log_in", log_in::check),
    ("number", number::check),
    ("reference", reference::check),
    ("row", row::check),
    ("sender_list", sender_list::check),
    ("template", template::check),
    ("text", text::check),
];
