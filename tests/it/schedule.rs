//! Scheduled rows leave when their time has come, whatever else is going on.

use crate::support::site::{Lines, Site};

#[tokio::test]
async fn a_scheduled_row_is_not_late_because_another_gateway_is_slow() {
    let site = Site::new("schedule").await;
    let slow = format!(
        "[gateway.slow]\ndialect = \"interactsms-v1\"\nurl = \"{}/api/v1/sendmessage.aspx\"\napi_id = 1\n\
         username = \"demo\"\npassword = \"demo-password\"\nrate = 2\n",
        site.sim.address("gateway")
    );
    // The poll would find the row too, much later.
    let daemon = site
        .daemon(Lines { queue: "poll_interval = \"60s\"\nlease = \"60s\"", more: &slow, ..Lines::default() })
        .await;
    site.run(
        "INSERT INTO sms.outbox (recipient, body, gateway) \
         SELECT '+35387' || lpad(n::text, 7, '0'), 'slow', 'slow' FROM generate_series(1, 200) AS n",
    )
    .await;
    site.sim_reaches("requests=1").await;
    site.until_asleep(&daemon).await;
    let id = site
        .insert("(recipient, body, gateway, send_after) VALUES ('+353871234567', 'on time', 'main', now() + interval '2s')")
        .await;
    site.until(id, "accepted").await;
    let late = site
        .sql
        .query_one(
            "SELECT extract(epoch FROM sent_at - send_after)::double precision FROM sms.outbox WHERE id = $1",
            &[&id],
        )
        .await
        .unwrap()
        .get::<_, f64>(0);
    assert!((0.0..5.0).contains(&late), "sent {late} s after its time");
}
