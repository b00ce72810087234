//! The integration tests: one binary, one module a subject.

mod sim_callbacks;
mod sim_control;
mod sim_dialects;
mod sim_faults;
mod sim_ledger;
mod sim_receiver;
