//! The one integration binary: everything here runs beside a real PostgreSQL, under `make test`.
//!
//! `support` is the harness; every other module is a suite. A new suite is a file and a `mod` line.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by failing")]
#![expect(clippy::print_stderr, reason = "what a child process said is part of a failure's message")]

mod admin_pages;
mod anomaly;
mod auto_reply;
mod bad_input;
mod big_queue;
mod cli_check;
mod cli_egress;
mod cli_hold;
mod cli_migrate;
mod cli_render;
mod cli_repair;
mod cli_send;
mod cli_status;
mod clock_steps;
mod config;
mod config_network;
mod copies;
mod crash;
mod database_tls;
mod disk_full;
mod doorbell;
mod failover;
mod fuzz_corpus;
mod gateway_egress;
mod gateway_login;
mod gateway_peer;
mod gateway_send;
mod gateway_tls;
mod gateway_trouble;
mod house;
mod inbox;
mod insert_forms;
mod inserters;
mod journey;
mod kill_points;
mod layers;
mod listener;
mod manual;
mod odd_moments;
mod opt_out;
mod oracles;
mod pooler;
mod pooler_ways;
mod privileges;
mod processing;
mod readme;
mod receipts;
mod refusals;
mod reliability;
mod restarts;
mod rows_in_flight;
mod schedule;
mod schema_trouble;
mod service_manager;
mod shutdown;
mod sim_callbacks;
mod sim_control;
mod sim_dialects;
mod sim_faults;
mod sim_ledger;
mod sim_receiver;
mod state_machine;
mod state_walks;
mod statements;
mod support;
mod table_locks;
mod table_replaced;
mod takeover;
mod two_primaries;
mod units;
mod unwritable;
