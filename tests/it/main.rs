//! Integration tests, in one binary so that they link once.

mod gateway_egress;
mod gateway_login;
mod gateway_peer;
mod gateway_send;
mod gateway_tls;
