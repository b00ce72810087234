//! Every statement below `sql/` is one that PostgreSQL understands, with the parameters that the code declares.
//!
//! Through a transaction pooler the declared types are all that the server is told, and only its built-in types can be
//! read there: looking another one up would prepare a statement.

use std::collections::BTreeSet;

use outboxd::store::statement::{ALL, Statement};
use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::files_below;
use crate::support::postgres::{TestDb, in_full};

#[test]
fn every_file_of_sql_is_a_statement_of_the_list_and_is_named_in_its_first_line() {
    let files = files_below("sql", "sql");
    let files: BTreeSet<String> = files
        .iter()
        .filter(|file| !file.starts_with("sql/migrations"))
        .map(|file| file.strip_prefix("sql").unwrap().with_extension("").display().to_string())
        .collect();
    let listed: BTreeSet<String> =
        ALL.iter().map(|statement| statement.name.to_owned()).filter(|name| name.contains('/')).collect();
    assert!(files.len() > 10, "found no statements");
    assert_eq!(files, listed);
    for statement in ALL {
        let name = statement.name.rsplit('/').next().unwrap();
        let first_line = statement.sql.lines().next().unwrap();
        assert_eq!(first_line, format!("-- outboxd: {name}"), "{}", statement.name);
    }
}

#[tokio::test]
async fn every_statement_can_be_prepared_and_has_the_types_that_are_declared_for_it() {
    let db = TestDb::create("statements").await;
    let client = db.client().await;
    let mut wrong = Vec::new();
    for statement in ALL {
        let prepared = match client.prepare(statement.sql).await {
            Ok(prepared) => prepared,
            Err(error) => {
                wrong.push(format!("{}: {}", statement.name, in_full(&error)));
                continue;
            }
        };
        if prepared.params() != statement.types {
            let (declared, told) = (names(statement.types), names(prepared.params()));
            wrong.push(format!("{}: declared {declared}, but it takes {told}", statement.name));
        }
        let of_columns: Vec<Type> = prepared.columns().iter().map(|column| column.type_().clone()).collect();
        if of_columns.iter().any(|column| Type::from_oid(column.oid()).is_none()) {
            wrong.push(format!(
                "{}: returns {}, not all of them built in",
                statement.name,
                names(&of_columns)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The indexes of `sms.outbox` that each statement walks along; every other one finds rows by their key alone.
const WAYS: [(&str, &[&str]); 8] = [
    ("discover", &["outbox_queued"]),
    ("next_due", &["outbox_queued"]),
    ("due_again", &["outbox_pkey", "outbox_queued"]),
    ("expire", &["outbox_expiring", "outbox_pkey"]),
    ("release", &["outbox_held, all of it", "outbox_pkey"]),
    ("resend", &["outbox_pkey", "outbox_unresolved, all of it"]),
    ("select_by_status", &["outbox_held", "outbox_pkey", "outbox_unresolved"]),
    ("uncertain", &["outbox_held, all of it", "outbox_queued"]),
];

/// Statistics of a queue are wrong most of the time: a way that is good only while they are right is taken at the worst
/// moment, and for a statement a second that reads a table of millions.
#[tokio::test]
async fn every_statement_keeps_to_its_index_whatever_the_statistics_say() {
    let db = TestDb::create("ways").await;
    let client = db.client().await;
    // As in src/store/connect.rs.
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit"] {
        client.batch_execute(&format!("SET {setting} = off")).await.unwrap();
    }
    client.batch_execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    let finished = "INSERT INTO sms.outbox (recipient, body, status, sent_at, final_at) \
                    SELECT '0871234567', 'done', 'delivered', now(), now() FROM generate_series(1, 100000)";
    let queued = "INSERT INTO sms.outbox (recipient, body) SELECT '0871234567', 'waits' FROM generate_series(1, 20000)";
    let given_up = "UPDATE sms.outbox SET status = 'unknown', sent_at = now() WHERE queued";
    let states: [(&str, &[&str]); 5] = [
        ("a table that was never looked at", &[queued]),
        ("nothing but queued rows", &["VACUUM ANALYZE sms.outbox"]),
        ("finished rows beside them", &[finished, "VACUUM ANALYZE sms.outbox"]),
        (
            "an empty queue, and much queued since",
            &["DELETE FROM sms.outbox WHERE queued", "VACUUM ANALYZE sms.outbox", queued],
        ),
        ("an empty queue, and much given up since", &[given_up]),
    ];
    let mut wrong = Vec::new();
    for (state, steps) in states {
        for step in steps {
            client.batch_execute(step).await.unwrap();
        }
        for statement in ALL.iter().filter(|statement| statement.name.starts_with("native/")) {
            let name = statement.name.trim_start_matches("native/");
            let found = ways(&client, statement).await;
            let by_key: &[&str] = &["outbox_pkey"];
            let expected = WAYS.iter().find(|way| way.0 == name).map_or(by_key, |way| way.1);
            if found.iter().any(|way| !expected.contains(&way.as_str())) {
                wrong.push(format!("{state}: {name} reads {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How a statement reads `sms.outbox`, by the generic plan.
async fn ways(client: &Client, statement: &Statement) -> BTreeSet<String> {
    let types: Vec<&str> = statement.types.iter().map(Type::name).collect();
    let nulls = vec!["NULL"; types.len()];
    let in_parentheses =
        |list: &[&str]| if list.is_empty() { String::new() } else { format!("({})", list.join(", ")) };
    let sql = format!("DEALLOCATE ALL; PREPARE way {} AS {}", in_parentheses(&types), statement.sql);
    client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error)));
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE way {}", in_parentheses(&nulls));
    let plan = client.query_one(&explain, &[]).await.unwrap().get::<_, Value>(0);
    let mut found = BTreeSet::new();
    indexes(&plan, &mut found);
    found
}

/// The scans of `sms.outbox` anywhere below this node of a plan.
fn indexes(node: &Value, found: &mut BTreeSet<String>) {
    match node {
        Value::Array(nodes) => nodes.iter().for_each(|node| indexes(node, found)),
        Value::Object(fields) => {
            if let Some(index) = fields.get("Index Name").and_then(Value::as_str)
                && index.starts_with("outbox_")
            {
                let whole = if fields.contains_key("Index Cond") { "" } else { ", all of it" };
                found.insert(format!("{index}{whole}"));
            } else if fields.get("Node Type").is_some_and(|kind| kind != "ModifyTable")
                && fields.get("Relation Name").is_some_and(|table| table == "outbox")
            {
                found.insert(fields["Node Type"].to_string());
            }
            fields.values().for_each(|node| indexes(node, found));
        }
        _ => {}
    }
}

fn names(types: &[Type]) -> String {
    types.iter().map(Type::name).collect::<Vec<_>>().join(", ")
}
