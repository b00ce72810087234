//! Who may do what: an application its own messages, the daemon what it needs, nobody anything else.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::postgres::{TestDb, connect, in_full};
use crate::support::site::{Lines, Site, insert};

/// The statement is refused for want of a privilege.
async fn assert_denied(client: &Client, sql: &str) {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("allowed: {sql}"),
        Err(error) => {
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {}", in_full(&error));
        }
    }
}

/// Rows that the statement changed.
async fn changed(client: &Client, sql: &str) -> u64 {
    client.execute(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error)))
}

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error))).get(0)
}

#[tokio::test]
async fn an_application_queues_schedules_edits_cancels_retries_and_watches_its_own() {
    let site = Site::new("app_rights").await;
    let shop = site.db.app_client("shop").await;
    let later =
        insert(&shop, "(recipient, body, send_after) VALUES ('0871234567', 'later', now() + interval '1 h')")
            .await;
    assert_eq!(changed(&shop, &format!("UPDATE sms.outbox SET body = 'edited', lane = NULL, expires_at = now() + interval '2 h' WHERE id = {later}")).await, 1);
    assert_eq!(text(&shop, &format!("SELECT sms.cancel({later})")).await.as_deref(), Some("cancelled"));
    assert_eq!(text(&shop, &format!("SELECT sms.cancel({later})")).await.as_deref(), Some("cancelled"));
    assert_eq!(
        text(&shop, &format!("SELECT error FROM sms.outbox WHERE id = {later}")).await,
        Some(format!("cancelled by {}", site.db.role("shop")))
    );
    let bad = insert(&shop, "(recipient, template) VALUES ('0871234567', 'none')").await;
    let _daemon = site.daemon(Lines::default()).await;
    site.until(bad, "failed").await;
    // What is no longer queued is history.
    assert_eq!(changed(&shop, &format!("UPDATE sms.outbox SET body = 'x' WHERE id = {bad}")).await, 0);
    assert_eq!(text(&shop, &format!("SELECT sms.retry({bad})")).await.as_deref(), Some("queued"));
    site.until(bad, "failed").await;
    assert_eq!(text(&shop, "SELECT sms.cancel(999999)").await, None);
    assert_eq!(text(&shop, "SELECT sms.retry(999999)").await, None);
    assert_eq!(changed(&shop, "SELECT FROM sms.template").await, 0);
}

#[tokio::test]
async fn an_application_may_do_nothing_else() {
    let site = Site::new("app_limits").await;
    let shop = site.db.app_client("shop").await;
    let id = insert(&shop, "(recipient, body) VALUES ('0871234567', 'mine')").await;
    for column in [
        "status",
        "held",
        "attempts",
        "error_code",
        "error",
        "sent_via",
        "gateway_ref",
        "gateway_message_id",
        "encoding",
        "segments",
        "created_at",
        "sent_at",
        "final_at",
        "app",
        "id",
    ] {
        assert_denied(&shop, &format!("UPDATE sms.outbox SET {column} = DEFAULT WHERE id = {id}")).await;
        if column != "id" {
            let insert =
                format!("INSERT INTO sms.outbox (recipient, body, {column}) VALUES ('1', 'x', DEFAULT)");
            assert_denied(&shop, &insert).await;
        }
    }
    for sql in [
        "DELETE FROM sms.outbox",
        "TRUNCATE sms.outbox",
        "INSERT INTO sms.template VALUES ('mine', '', 'text')",
        "UPDATE sms.template SET body = ''",
        "SELECT FROM sms.health",
        "SELECT sms.hold()",
        "SELECT sms.resume()",
        "SELECT sms.resume('main')",
        "SELECT FROM outboxd.leader",
        "SELECT outboxd.may_touch('x')",
        "SELECT outboxd.auto_reply(1, 'x', 0)",
        "SELECT nextval('outboxd.register')",
        "SELECT nextval('sms.outbox_id_seq')",
        "CREATE TABLE sms.mine ()",
        "CREATE TABLE outboxd.mine ()",
        "DROP TABLE sms.outbox",
        "ALTER TABLE sms.outbox DISABLE TRIGGER outbox_ring_insert",
        "SET ROLE outboxd_daemon",
        "SET ROLE outboxd_operator",
    ] {
        assert_denied(&shop, sql).await;
    }
}

#[tokio::test]
async fn applications_do_not_see_each_other() {
    let site = Site::new("apps").await;
    let (shop, bank) = tokio::join!(site.db.app_client("shop"), site.db.app_client("bank"));
    let id = insert(&shop, "(recipient, body) VALUES ('0871234567', 'of the shop')").await;
    assert_eq!(changed(&bank, "SELECT FROM sms.outbox").await, 0);
    assert_eq!(changed(&shop, "SELECT FROM sms.outbox").await, 1);
    assert_eq!(changed(&bank, "UPDATE sms.outbox SET body = 'of the bank'").await, 0);
    assert_eq!(text(&bank, &format!("SELECT sms.cancel({id})")).await, None);
    assert_eq!(text(&bank, &format!("SELECT sms.retry({id}, true)")).await, None);
    assert_eq!(site.row(id).await.status, "queued");
    // A colliding id tells no more than that it is taken.
    let error = bank
        .execute(&format!("INSERT INTO sms.outbox (id, recipient, body) VALUES ({id}, '1', 'x')"), &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert!(!in_full(&error).contains("of the shop"));
}

#[tokio::test]
async fn the_daemons_role_can_send_and_nothing_more() {
    let site = Site::new("daemon_rights").await;
    let daemon = connect(&site.db.daemon_url().await.parse().unwrap()).await;
    for sql in [
        "DELETE FROM sms.outbox",
        "TRUNCATE sms.outbox",
        "INSERT INTO sms.template VALUES ('mine', '', 'text')",
        "DELETE FROM outboxd.leader",
        "INSERT INTO outboxd.leader DEFAULT VALUES",
        "DELETE FROM outboxd.migration",
        "INSERT INTO outboxd.migration (version, name, sha256) VALUES (99, 'x', 'x')",
        "CREATE TABLE sms.mine ()",
        "CREATE TABLE outboxd.mine ()",
        "CREATE SCHEMA mine",
        "ALTER TABLE sms.outbox ADD COLUMN mine text",
        "DROP TRIGGER outbox_ring_insert ON sms.outbox",
        "CREATE ROLE mine",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert_denied(&daemon, sql).await;
    }
}

#[tokio::test]
async fn an_operator_holds_resumes_and_touches_every_message() {
    let site = Site::new("operator").await;
    let shop = site.db.app_client("shop").await;
    let id = insert(&shop, "(recipient, body) VALUES ('0871234567', 'of the shop')").await;
    let role = site.db.role("operator");
    site.run(&format!("CREATE ROLE {role} LOGIN IN ROLE outboxd_operator")).await;
    let operator = connect(crate::support::postgres::cluster(site.db.name()).user(&role)).await;
    for sql in [
        "SELECT sms.hold('lunch')",
        "SELECT sms.resume()",
        "SELECT FROM sms.health",
        "SELECT FROM sms.outbox",
        "SELECT FROM outboxd.alarm",
        "INSERT INTO sms.template VALUES ('mine', '', 'text')",
    ] {
        changed(&operator, sql).await;
    }
    assert_eq!(text(&operator, &format!("SELECT sms.cancel({id})")).await.as_deref(), Some("cancelled"));
    for sql in [
        "UPDATE sms.outbox SET body = ''",
        "DELETE FROM sms.outbox",
        "UPDATE outboxd.leader SET held = false",
    ] {
        assert_denied(&operator, sql).await;
    }
    let error = operator.execute("SELECT sms.resume('nowhere')", &[]).await.unwrap_err();
    assert!(in_full(&error).contains("nowhere"));
}

#[tokio::test]
async fn a_stranger_sees_nothing() {
    let db = TestDb::create("stranger").await;
    let role = db.role("stranger");
    db.client().await.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let stranger = connect(crate::support::postgres::cluster(db.name()).user(&role)).await;
    for sql in [
        "SELECT FROM sms.outbox",
        "SELECT FROM sms.template",
        "SELECT sms.cancel(1)",
        "SELECT sms.hold()",
        "SELECT FROM outboxd.leader",
        "SELECT outboxd.may_become('queued', 'accepted')",
    ] {
        assert_denied(&stranger, sql).await;
    }
}

#[tokio::test]
async fn everything_in_the_schemas_is_explained() {
    let client = TestDb::create("comments").await.client().await;
    let sql = "
        WITH ours AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('sms', 'outboxd'))
        SELECT 'schema ' || nspname FROM ours WHERE obj_description(oid, 'pg_namespace') IS NULL
        UNION ALL
        SELECT format('relation %s.%s', n.nspname, c.relname) FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S') AND obj_description(c.oid, 'pg_class') IS NULL
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.deptype = 'i')
        UNION ALL
        SELECT format('column %s.%s.%s', n.nspname, c.relname, a.attname)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ours n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND a.attnum > 0 AND NOT a.attisdropped
            AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT format('function %s.%s', n.nspname, p.proname) FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
        WHERE obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT format('type %s.%s', n.nspname, t.typname) FROM pg_type t JOIN ours n ON n.oid = t.typnamespace
        WHERE t.typtype IN ('d', 'e', 'r') AND obj_description(t.oid, 'pg_type') IS NULL";
    let missing: Vec<String> = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(missing, Vec::<String>::new(), "without a COMMENT");
}

#[tokio::test]
async fn functions_that_run_as_their_owner_fix_their_search_path_and_belong_to_nobody_else() {
    let client = TestDb::create("definer").await.client().await;
    let sql = "SELECT p.oid::regprocedure::text, p.prosrc, has_function_privilege('public', p.oid, 'EXECUTE'), \
               coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false) FROM pg_proc p \
               WHERE p.pronamespace IN ('sms'::regnamespace, 'outboxd'::regnamespace) AND p.prosecdef";
    let mut loose = Vec::new();
    let mut by_name = Vec::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let (name, source): (String, String) = (row.get(0), row.get(1));
        let (everybodys, fixed): (bool, bool) = (row.get(2), row.get(3));
        if everybodys {
            loose.push(format!("{name} is everybody's"));
        }
        if !fixed {
            let found = found_by_path(&client, &source).await;
            loose.extend(found.into_iter().map(|word| format!("{name}: {word}")));
            by_name.push(name);
        }
    }
    assert_eq!(loose, Vec::<String>::new());
    // Called for every row or statement. They say of each operator, function and type where it is from.
    by_name.sort();
    assert_eq!(by_name, ["outboxd.keep_sound()", "outboxd.ring_if_asleep()"]);
}

/// Operators, functions and types in the source of a function that do not say which schema they are from.
async fn found_by_path(client: &Client, source: &str) -> Vec<String> {
    let sql = r"SELECT found[1]
        FROM regexp_replace(
            $1,
            '--[^\n]*|''[^'']*''|OPERATOR\(pg_catalog\.[^a-z()]+\)|\(-[0-9]+\)|:=|::pg_catalog\.|USING ERRCODE =[^;]*;',
            ',',
            'g'
        ) AS source,
        LATERAL regexp_matches(source, '([-+*/<>=~!@#%^&|`?]+|(?:\w+\.)?\w+ *\()', 'g') AS found
        WHERE found[1] NOT LIKE 'pg\_catalog.%'
            -- No functions, or none that anybody could put another in place of.
            AND found[1] !~ '^(IF|AND|OR|NOT|ANY|ALL|coalesce|extract) *\($'
        UNION ALL
        SELECT found[1]
        FROM regexp_matches(substring($1 FROM '^\s*DECLARE(.*?)\sBEGIN\s'), '\w+\s+([\w.]+)[^;]*;', 'g') AS found
        -- Words of the grammar.
        WHERE found[1] !~ '^(pg_catalog\.\w+|boolean|bigint|integer)$'
        UNION ALL
        SELECT found[1]
        FROM regexp_matches($1, '::\s*([\w.]+)', 'g') AS found
        WHERE found[1] !~ '^(pg_catalog\.\w+|boolean|bigint|integer)$'";
    client.query(sql, &[&source]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_is_found_by_the_search_path_is_seen() {
    let client = TestDb::create_empty("by_path").await.client().await;
    let named = "IF NEW.a OPERATOR(pg_catalog.<>) 'b (= c)' AND (x IS NULL) THEN \
                 y := pg_catalog.left(coalesce(z, 1), 2); -- a = b";
    assert_eq!(found_by_path(&client, named).await, Vec::<String>::new());
    let bare = "IF a = 1 AND left (b, 2) > my.f(c) THEN";
    assert_eq!(found_by_path(&client, bare).await, ["=", "left (", ">", "my.f("]);
    let typed = " DECLARE a boolean; b text := 'x'; c pg_catalog.text; d my.kind; BEGIN e := '1'::regclass, \
                 '2'::pg_catalog.regclass, 3::bigint; END";
    assert_eq!(found_by_path(&client, typed).await, ["text", "my.kind", "regclass"]);
}
