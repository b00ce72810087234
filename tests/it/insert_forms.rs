//! The ways in which applications write rows: COPY, INSERT … SELECT, views, functions, upserts, MERGE, and sessions in
//! which triggers do not fire. Every row that comes in is sent once.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::support::books::Committed;
use crate::support::postgres::in_full;
use crate::support::site::{Lines, Site};

/// The poll is far away: whatever is found within a test's patience was looked for.
const FAR_POLL: Lines<'_> =
    Lines { queue: "poll_interval = \"120s\"", gateway: "", more: "", receipts: false };
const ROWS: usize = 10_000;

async fn run(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {}", in_full(&error));
    }
}

/// COPY in the text format.
async fn copy_text(client: &Client, sql: &str, lines: &str) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(client.copy_in::<_, Bytes>(sql).await?);
    for piece in lines.as_bytes().chunks(8192) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

#[tokio::test]
async fn ten_thousand_rows_for_one_recipient_copied_as_text_or_binary_with_and_without_ids_are_sent_once_each()
 {
    let site = Site::new("copy_in").await;
    // Asleep, so that the first COPY has to ring.
    let daemon = site.daemon(FAR_POLL).await;
    site.until_asleep(&daemon).await;
    let mut committed = Committed::default();
    let number = "+353871234567";

    let lines: String = (0..ROWS / 4).map(|n| format!("{number}\ttext {n}\n")).collect();
    let copied = copy_text(&site.sql, "COPY sms.outbox (recipient, body) FROM STDIN", &lines).await.unwrap();
    assert_eq!(copied, 2_500);
    committed.add_all((0..ROWS / 4).map(|n| format!("text {n}")));

    let lines: String =
        (0..ROWS / 4).map(|n| format!("{}\t{}\ttext id {n}\n", 1_000_000 - n, number)).collect();
    copy_text(&site.sql, "COPY sms.outbox (id, recipient, body) FROM STDIN", &lines).await.unwrap();
    committed.add_all((0..ROWS / 4).map(|n| format!("text id {n}")));

    for (with_id, name) in [(false, "binary"), (true, "binary id")] {
        let columns = if with_id { "id, recipient, body" } else { "recipient, body" };
        let types =
            if with_id { &[Type::INT8, Type::TEXT, Type::TEXT][..] } else { &[Type::TEXT, Type::TEXT] };
        let sql = format!("COPY sms.outbox ({columns}) FROM STDIN (FORMAT binary)");
        let mut writer = pin!(BinaryCopyInWriter::new(site.sql.copy_in(&sql).await.unwrap(), types));
        for n in 0..ROWS / 4 {
            let (id, to, text) = (2_000_000 + i64::try_from(n).unwrap(), number, format!("{name} {n}"));
            let values: [&(dyn ToSql + Sync); 3] = [&id, &to, &text];
            writer.as_mut().write(if with_id { &values[..] } else { &values[1..] }).await.unwrap();
            committed.add(text);
        }
        assert_eq!(writer.finish().await.unwrap(), 2_500);
    }
    assert_eq!(committed.len(), ROWS);
    site.until_all_sent(&committed).await;
}

/// PostgreSQL has no COPY into a table with row-level security, for roles that it holds for.
#[tokio::test]
async fn an_application_copies_into_a_table_of_its_own_and_inserts_from_there() {
    let site = Site::new("copy_app").await;
    let _daemon = site.daemon(FAR_POLL).await;
    let shop = site.db.app_client("shop").await;
    let lines: String = (0..1000).map(|n| format!("0871234567\tcopied {n}\n")).collect();
    let refused = shop.batch_execute("COPY sms.outbox (recipient, body) FROM STDIN").await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{}", in_full(&refused));
    run(&shop, "CREATE TEMPORARY TABLE waiting (recipient text, body text)").await;
    copy_text(&shop, "COPY waiting FROM STDIN", &lines).await.unwrap();
    run(&shop, "INSERT INTO sms.outbox (recipient, body) SELECT w.recipient, w.body FROM waiting AS w").await;
    let mut committed = Committed::default();
    committed.add_all((0..1000).map(|n| format!("copied {n}")));
    site.until_all_sent(&committed).await;
}

#[tokio::test]
async fn rows_that_come_by_select_by_many_values_by_a_view_or_by_a_function_are_sent_as_their_applications() {
    let site = Site::new("roundabout").await;
    let _daemon = site.daemon(FAR_POLL).await;
    let shop = site.db.app_client("shop").await;
    site.run(
        "CREATE TABLE public.orders (id integer, phone text); \
         INSERT INTO public.orders SELECT n, '+35387' || lpad(n::text, 7, '0') FROM generate_series(1, 200) AS n; \
         GRANT SELECT ON public.orders TO outboxd_app; \
         CREATE VIEW public.texts AS SELECT recipient, body, client_ref FROM sms.outbox; \
         GRANT SELECT, INSERT ON public.texts TO outboxd_app; \
         CREATE FUNCTION public.tell(phone text, what text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS \
             'INSERT INTO sms.outbox (recipient, body) VALUES (phone, what) RETURNING id'; \
         CREATE FUNCTION public.told() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
             'BEGIN PERFORM public.tell(NEW.phone, ''by trigger '' || NEW.id); RETURN NULL; END'; \
         CREATE TRIGGER told AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.told(); \
         GRANT INSERT ON public.orders TO outboxd_app",
    )
    .await;
    run(&shop, "INSERT INTO sms.outbox (recipient, body) SELECT o.phone, 'selected ' || o.id FROM public.orders AS o").await;
    let values: Vec<String> = (1..=100).map(|n| format!("('0871234567', 'many {n}')")).collect();
    run(&shop, &format!("INSERT INTO sms.outbox (recipient, body) VALUES {}", values.join(", "))).await;
    run(&shop, "INSERT INTO public.texts (recipient, body) SELECT '0871234567', 'view ' || n FROM generate_series(1, 50) AS n").await;
    run(&shop, "SELECT public.tell('0871234567', 'function ' || n) FROM generate_series(1, 50) AS n").await;
    run(&shop, "INSERT INTO public.orders SELECT n, '0871234567' FROM generate_series(201, 250) AS n").await;
    let mut committed = Committed::default();
    committed.add_all((1..=200).map(|n| format!("selected {n}")));
    committed.add_all((1..=100).map(|n| format!("many {n}")));
    committed.add_all((1..=50).flat_map(|n| [format!("view {n}"), format!("function {n}")]));
    committed.add_all((201..=250).map(|n| format!("by trigger {n}")));
    site.until_all_sent(&committed).await;
    let whose = format!("SELECT bool_and(app = '{}') FROM sms.outbox", site.db.role("shop"));
    site.until_true("each belongs to the application, whoever carried it in", &whose).await;
}

#[tokio::test]
async fn an_insert_that_meets_a_used_client_ref_does_nothing_corrects_what_is_queued_and_never_what_was_sent()
{
    let site = Site::new("on_conflict").await;
    let shop = site.db.app_client("shop").await;
    let insert = |text: &str, conflict: &str| {
        format!(
            "INSERT INTO sms.outbox AS o (recipient, body, client_ref) \
             SELECT '0871234567', '{text} ' || n, 'ref ' || n FROM generate_series(1, 100) AS n ON CONFLICT {conflict}"
        )
    };
    let update = "(app, client_ref) WHERE client_ref IS NOT NULL DO UPDATE SET body = excluded.body";
    run(&shop, &insert("first", "DO NOTHING")).await;
    run(&shop, &insert("ignored", "DO NOTHING")).await;
    run(&shop, &insert("corrected", update)).await;
    let mut committed = Committed::default();
    committed.add_all((1..=100).map(|n| format!("corrected {n}")));
    let daemon = site.daemon(FAR_POLL).await;
    site.until_all_sent(&committed).await;

    // The daemon sleeps: an upsert of something scheduled has to ring when it becomes due by that.
    run(
        &shop,
        "INSERT INTO sms.outbox (recipient, body, client_ref, send_after) \
                VALUES ('0871234567', 'scheduled', 'later', now() + interval '1 h')",
    )
    .await;
    site.until_asleep(&daemon).await;
    run(
        &shop,
        "INSERT INTO sms.outbox (recipient, body, client_ref) VALUES ('0871234567', 'now', 'later') \
                ON CONFLICT (app, client_ref) WHERE client_ref IS NOT NULL \
                DO UPDATE SET body = excluded.body, send_after = excluded.send_after",
    )
    .await;
    committed.add("now");
    site.until_all_sent(&committed).await;

    run(&shop, &insert("ignored", "DO NOTHING")).await;
    let error = shop.batch_execute(&insert("too late", update)).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{}", in_full(&error));
    site.assert_books(&committed).await;
}

#[tokio::test]
async fn rows_that_merge_inserts_or_corrects_are_sent_once_each() {
    let site = Site::new("merge").await;
    if site.number("SELECT current_setting('server_version_num')::bigint").await < 150_000 {
        eprintln!("MERGE came with PostgreSQL 15");
        return;
    }
    let shop = site.db.app_client("shop").await;
    let merge = |text: &str, from: u32, to: u32| {
        format!(
            "MERGE INTO sms.outbox AS o \
             USING (SELECT '{text} ' || n AS body, 'ref ' || n AS ref FROM generate_series({from}, {to}) AS n) AS s \
             ON o.client_ref = s.ref \
             WHEN MATCHED AND o.status = 'queued' THEN UPDATE SET body = s.body \
             WHEN MATCHED THEN DO NOTHING \
             WHEN NOT MATCHED THEN INSERT (recipient, body, client_ref) VALUES ('0871234567', s.body, s.ref)"
        )
    };
    run(&shop, &merge("first", 1, 200)).await;
    run(&shop, &merge("second", 101, 300)).await;
    let daemon = site.daemon(FAR_POLL).await;
    let mut committed = Committed::default();
    committed.add_all((1..=100).map(|n| format!("first {n}")));
    committed.add_all((101..=300).map(|n| format!("second {n}")));
    site.until_all_sent(&committed).await;
    site.until_asleep(&daemon).await;
    run(&shop, &merge("third", 1, 350)).await;
    committed.add_all((301..=350).map(|n| format!("third {n}")));
    site.until_all_sent(&committed).await;
}

/// As the subscriber of a logical replication inserts, or a loader that wants no triggers: nobody rings, but rows are sound
/// all the same.
#[tokio::test]
async fn rows_of_a_session_in_which_triggers_do_not_fire_are_found_by_the_poll_and_are_sound() {
    let site = Site::new("replica_role").await;
    let daemon = site.daemon(Lines { queue: "poll_interval = \"500ms\"", ..Lines::default() }).await;
    site.until_asleep(&daemon).await;
    let loader = site.db.client().await;
    run(&loader, "SET session_replication_role = replica").await;
    let mut committed = Committed::default();
    for n in 0..5 {
        run(
            &loader,
            &format!("INSERT INTO sms.outbox (recipient, body) VALUES ('0871234567', 'silent {n}')"),
        )
        .await;
        committed.add(format!("silent {n}"));
        site.until_all_sent(&committed).await;
    }
    for column in ["id", "app", "lane", "send_after"] {
        let text = format!("no {column}");
        let sql = format!(
            "INSERT INTO sms.outbox (recipient, body, {column}) VALUES ('0871234567', '{text}', NULL)"
        );
        run(&loader, &sql).await;
        committed.add(text);
    }
    let sql = "INSERT INTO sms.outbox (recipient, body, lane) VALUES ('0871234567', 'x', 'Bulk')";
    let error = loader.batch_execute(sql).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{}", in_full(&error));
    run(&loader, "INSERT INTO sms.outbox (body) VALUES ('no number')").await;
    committed.add("no number");
    run(
        &loader,
        "INSERT INTO sms.outbox (recipient, body, app) VALUES ('0871234567', 'other app', 'elsewhere')",
    )
    .await;
    committed.add("other app");
    // What a publisher had sent already is not sent here.
    run(
        &loader,
        "INSERT INTO sms.outbox (recipient, body, status, attempts, sent_at, gateway_ref) \
                  VALUES ('0871234567', 'sent there', 'accepted', 1, now(), 'A-B-1')",
    )
    .await;
    let waits = "SELECT count(*) FROM sms.outbox WHERE queued AND gateway_ref = 'A-B-1'";
    assert_eq!(site.number(waits).await, 0);
    site.until_counts("each has an end", |counts| counts.of("accepted") == 11 && counts.of("failed") == 1)
        .await;
    run(&loader, "DELETE FROM sms.outbox WHERE gateway_ref = 'A-B-1'").await;
    site.assert_books(&committed).await;
}
