//! Every file of the fuzz corpus goes through the check of its fuzz target, on the ordinary compiler: what fuzzing once
//! found stays found. `make fuzz` looks for more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::{files_below, repository};

#[expect(unreachable_pub, reason = "a library of the fuzz targets too")]
#[path = "../fuzz/checks/mod.rs"]
mod checks;

/// Tries every file and names those that fail.
fn replay(name: &str, directory: &Path) {
    let (_, check) = checks::ALL.iter().find(|(known, _)| *known == name).expect("a check of that name");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    assert!(files.len() >= 10, "{} holds {} files", directory.display(), files.len());
    let failed: Vec<&PathBuf> = files
        .iter()
        .filter(|path| {
            let input = std::fs::read(path).unwrap();
            std::panic::catch_unwind(|| check(&input)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{name}: {failed:#?}");
}

macro_rules! replays {
    ($($name:ident => $test:ident),* $(,)?) => {
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $test() {
                replay(stringify!($name), &repository().join("tests/fuzz/corpus").join(stringify!($name)));
            }
        )*
    };
}

replays! {
    answer_http => an_answer_of_a_configured_gateway_is_accepted_only_where_a_rule_says_so,
    answer_v1 => an_answer_of_version_1_is_accepted_only_with_code_0,
    answer_v2 => an_answer_of_version_2_is_accepted_only_where_it_says_so,
    callback => a_receipt_is_believed_only_with_a_signature_that_fits,
    config => a_configuration_is_usable_or_refused_at_a_place_in_the_file,
    connection => a_connection_string_gives_away_no_password,
    log_in => an_answer_to_the_log_in_is_a_token_or_says_why_not,
    number => a_number_is_digits_that_were_written_or_refused,
    reference => a_reference_comes_back_as_it_was_given,
    row => a_row_is_written_to_every_gateway_as_it_was_composed,
    sender_list => a_list_of_senders_is_taken_from_a_whole_answer_only,
    template => what_is_put_into_a_template_is_never_read_again,
    text => a_text_is_billed_as_it_is_cut,
}

#[test]
fn the_configurations_of_the_other_tests_and_the_shipped_one_pass_the_same_check() {
    for directory in ["tests/it/config/valid", "tests/it/config/invalid", "packaging"] {
        for file in files_below(directory, "toml") {
            checks::config::check(&std::fs::read(repository().join(file)).unwrap());
        }
    }
}

#[test]
fn every_check_has_a_target_a_corpus_and_a_replay() {
    let names: BTreeSet<&str> = checks::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, REPLAYED.iter().copied().collect());
    let manifest = std::fs::read_to_string(repository().join("tests/fuzz/Cargo.toml")).unwrap();
    let binaries: BTreeSet<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|bin| bin.split('"').nth(1).expect("name = \"…\" comes first"))
        .collect();
    assert_eq!(names, binaries);
    let directories: BTreeSet<String> = std::fs::read_dir(repository().join("tests/fuzz/corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, directories.iter().map(String::as_str).collect());
}

/// The same checks with inputs that know what a text, a template and a row look like: properties of any of them.
mod generated {
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};

    use super::checks;

    /// Runs of one character, so that every limit of a segment is met from both sides.
    fn texts() -> impl Strategy<Value = String> {
        let run = ("[a€😀ж\n…™ﬃé{]", prop_oneof![0_usize..4, 60..80_usize, 145..165_usize]);
        proptest::collection::vec(run, 0..5)
            .prop_map(|runs| runs.into_iter().map(|(c, times)| c.repeat(times)).collect())
    }

    fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
        let lines: Vec<String> = fields.iter().map(|(name, value)| format!("-- {name}\n{value}")).collect();
        lines.join("\n").into_bytes()
    }

    proptest! {
        #[test]
        fn a_text_at_the_limits_is_billed_as_it_is_cut(text in texts()) {
            checks::text::check(text.as_bytes());
        }

        #[test]
        fn any_text_is_billed_as_it_is_cut(text in any::<String>()) {
            checks::text::check(text.as_bytes());
        }

        #[test]
        fn a_body_is_sent_as_it_stands_or_spelled_so_that_it_costs_no_more(body in texts(), settings in "(transliterate )?(long|one)?") {
            let row = [("settings", settings.as_str()), ("recipient", "0871234567"), ("body", &body)];
            checks::row::check(&fields(&row));
        }

        #[test]
        fn a_template_takes_values_as_they_are(
            source in "(Hi |\\{a\\}|\\{b\\|none\\}|\\{\\{|\\}\\}|\\{|€| ){0,8}",
            params in "\\{(\"a\":(\"[a-z{}|\"\\\\]{0,6}\"|1.50|null|true|\\[\\]),?)?(\"b\":\"\\{a\\}\")?\\}",
        ) {
            checks::template::check(&fields(&[("template", &source), ("params", &params)]));
        }

        #[test]
        fn a_number_in_any_clothes_is_read_in_one_way_or_refused(
            country in "(353|44|36|1|7)?",
            trunk in "(0|06|8|1)?",
            number in "(\\+|00|0)?(\\(0\\)|353|44|1)?[ (]?(0|\\(0\\))?[0-9]{1,3}[) -]{0,2}[0-9]{3,4}[ -]?[0-9]{3,4}(\\.0|\\(0\\)|x1)?",
        ) {
            checks::number::check(&fields(&[("country", &country), ("trunk", &trunk), ("number", &number)]));
        }
    }
}
