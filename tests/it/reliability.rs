//! RELIABILITY.md against the tests: each scenario in its table is a test that there is, and lost and doubled nothing.

use crate::support::{files_below, repository};

#[test]
fn every_scenario_of_the_table_is_a_test() {
    let text = std::fs::read_to_string(repository().join("RELIABILITY.md")).unwrap();
    let (_, table) = text.split_once("| Suite | Scenario |").expect("RELIABILITY.md has the table");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{} scenarios", rows.len());
    let sources: Vec<_> = files_below("tests/it", "rs")
        .into_iter()
        .map(|file| {
            let source = std::fs::read_to_string(repository().join(&file)).unwrap();
            (file, source)
        })
        .collect();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [suite, sentence, _messages, _sent, lost, doubled, _unknown] = cells.as_slice() else {
            panic!("{row}");
        };
        let function = format!("fn {}(", sentence.replace(' ', "_"));
        let place = format!("tests/it/{suite}");
        let there = sources
            .iter()
            .any(|(file, source)| file.to_string_lossy().starts_with(&place) && source.contains(&function));
        assert!(there, "{place} has no test of this name: {sentence}");
        assert_eq!((*lost, *doubled), ("0", "0"), "{row}");
    }
}
