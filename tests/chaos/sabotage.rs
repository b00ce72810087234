//! Books that are wrong on purpose, so that the comparison is itself tested: each kind must be found.

use std::time::Instant;

use crate::books::Breach;
use crate::clients::{Cancel, Fate, Wish, Written};
use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A row that was acknowledged disappears.
    Lost,
    /// A message is sent once more, behind the daemons' backs.
    Doubled,
    /// A row is due, and nobody is there to send it.
    Stuck,
}

impl Sabotage {
    pub(crate) fn breach(self) -> Breach {
        match self {
            Sabotage::Lost => Breach::Lost,
            Sabotage::Doubled => Breach::Doubled,
            Sabotage::Stuck => Breach::Stuck,
        }
    }

    pub(crate) async fn strike(self, world: &World, book: &mut Vec<(usize, Written)>) {
        let sql = world.sql().await.unwrap();
        let sent = "SELECT id, body FROM sms.outbox WHERE status IN ('accepted', 'delivered') AND body IS NOT NULL LIMIT 1";
        match self {
            Sabotage::Lost => {
                let id: i64 = sql.query_one(sent, &[]).await.unwrap().get(0);
                sql.execute("DELETE FROM sms.outbox WHERE id = $1", &[&id]).await.unwrap();
            }
            Sabotage::Doubled => {
                let text: String = sql.query_one(sent, &[]).await.unwrap().get(1);
                let query = [
                    ("username", "demo"),
                    ("password", "demo-password"),
                    ("from", "Chaos"),
                    ("to", "353871234567"),
                    ("text", text.as_str()),
                ];
                let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
                let url = format!("{}/cgi-bin/sendsms?{query}", world.sim.address("gateway"));
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                assert!(client.get(url).send().await.unwrap().status().is_success());
            }
            Sabotage::Stuck => {
                for slot in &world.slots {
                    slot.borrow_mut().kill();
                }
                let insert = "INSERT INTO sms.outbox (recipient, body) VALUES ('+353871234567', '#stuck#') RETURNING id";
                let id: i64 = sql.query_one(insert, &[]).await.unwrap().get(0);
                let tokens = vec!["#stuck#".to_owned()];
                let fate = Fate::Acknowledged;
                let now = Instant::now();
                let (wish, cancel) = (Wish::Sent, Cancel::No);
                let (committed_at, cancelled_at) = (now, now);
                book.push((
                    0,
                    Written { tokens, id: Some(id), fate, wish, cancel, committed_at, cancelled_at },
                ));
            }
        }
    }
}
