//! Every statement below `sql/` is one that PostgreSQL understands, with the parameters that the code declares.
//!
//! Through a transaction pooler the declared types are all that the server is told, and only its built-in types can be
//! read there: looking another one up would prepare a statement.

use std::collections::BTreeSet;

use outboxd::store::statement::ALL;
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

fn names(types: &[Type]) -> String {
    types.iter().map(Type::name).collect::<Vec<_>>().join(", ")
}
