//! The listener for what the gateway reports later. It knows HTTP and nothing else: what a form means is the gateway
//! edge's business, what it does to a row the store's. A caller gets 200 only when its receipt is committed.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use tokio::net::TcpListener;
use tracing::{debug, error, info, warn};

use crate::config::{Callbacks, Secret};
use crate::engine::receipts::{Receipts, Taken};
use crate::gateway::callback::{ReceiptError, parse_receipt};
use crate::message::NotifyRef;
use crate::store::receipts::ReceiptFact;

/// Largest body that is read; a receipt has a few hundred bytes.
const BODY_BYTES: usize = 16 * 1024;

struct Listener {
    settings: Callbacks,
    receipts: Receipts,
}

/// Runs until it is dropped.
pub(super) async fn serve(listener: TcpListener, settings: Callbacks, receipts: Receipts) {
    info!(address = %settings.listen, "taking callbacks");
    let state = Arc::new(Listener { settings, receipts });
    let app = Router::new().fallback(take).with_state(state);
    if let Err(error) = axum::serve(listener, app).await {
        error!(%error, "the callback listener ended");
    }
}

async fn take(State(listener): State<Arc<Listener>>, request: Request<Body>) -> (StatusCode, &'static str) {
    if !same(request.uri().path(), &listener.settings.path) {
        return (StatusCode::NOT_FOUND, "not found\n");
    }
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
    }
    let Ok(body) = to_bytes(request.into_body(), BODY_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "too large, or broken off\n");
    };
    let receipt = match parse_receipt(&body, &listener.settings.secrets) {
        Ok(receipt) => receipt,
        Err(fault) => return refuse(&fault),
    };
    let Some(reference) = NotifyRef::parse(&receipt.gateway_ref) else {
        debug!("a receipt for a message that did not come from here");
        return (StatusCode::OK, "OK\n");
    };
    match listener.receipts.submit(ReceiptFact { reference, delivered: receipt.delivered }).await {
        Taken::Committed { changed } => {
            debug!(message_id = reference.id.0, delivered = receipt.delivered, changed, "receipt");
            (StatusCode::OK, "OK\n")
        }
        Taken::Failed => (StatusCode::SERVICE_UNAVAILABLE, "not written, please send it again\n"),
    }
}

fn refuse(fault: &ReceiptError) -> (StatusCode, &'static str) {
    match fault {
        // Messages from the gateway's web pages carry none: nothing of ours, and nothing wrong.
        ReceiptError::EmptyReference => (StatusCode::OK, "OK\n"),
        ReceiptError::WrongSignature => {
            warn!("a receipt with a wrong signature: forged, or client_secret is not the account's");
            (StatusCode::FORBIDDEN, "wrong SMS-Verify\n")
        }
        ReceiptError::NotAReceipt => {
            warn!("a callback that is not a delivery receipt; this version takes receipts only");
            (StatusCode::UNPROCESSABLE_ENTITY, "delivery receipts only\n")
        }
        ReceiptError::Malformed(what) => {
            warn!(what, "a malformed callback");
            (StatusCode::BAD_REQUEST, "malformed\n")
        }
    }
}

/// Takes as long for a wrong path as for the right one, so that the path cannot be guessed letter by letter.
fn same(path: &str, secret: &Secret) -> bool {
    let (path, secret) = (path.as_bytes(), secret.expose().as_bytes());
    path.len() == secret.len() && path.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
