//! Every statement below `sql/` is one that PostgreSQL understands, with parameters whose types it can tell.

use crate::support::postgres::{TestDb, in_full};
use crate::support::{files_below, repository};

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let db = TestDb::create("statements").await;
    let client = db.client().await;
    let files = files_below("sql", "sql");
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.starts_with("sql/migrations")) {
        let sql = std::fs::read_to_string(repository().join(file)).unwrap();
        if let Err(error) = client.prepare(&sql).await {
            wrong.push(format!("{}: {}", file.display(), in_full(&error)));
        }
    }
    assert!(files.len() > 10, "found no statements");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
