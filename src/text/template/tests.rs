//! Tests of templates and parameters; `template.rs` holds the rules.

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::{MAX_BYTES, Params, Problem, Template};
use crate::message::Refusal;
use crate::text::code;

fn render(template: &str, params: &str) -> Result<String, Refusal> {
    Template::parse(template).unwrap().render(&Params::parse(params)?)
}

fn refusal(template: &str, params: &str) -> Refusal {
    render(template, params).unwrap_err()
}

#[test]
fn placeholders_defaults_and_braces() {
    for (template, params, text) in [
        ("Hello", "{}", "Hello"),
        ("", "{}", ""),
        ("Hi {name}!", r#"{"name":"Aoife"}"#, "Hi Aoife!"),
        ("{a}{b}{a}", r#"{"a":"1","b":"2"}"#, "121"),
        ("Hi {name|there}", "{}", "Hi there"),
        ("Hi {name|there}", r#"{"name":null}"#, "Hi there"),
        ("Hi {name|there}", r#"{"name":""}"#, "Hi "),
        ("Hi{name|}", "{}", "Hi"),
        ("{a|x|y}", "{}", "x|y"),
        ("{{name}}", r#"{"name":"x"}"#, "{name}"),
        ("{{{name}}}", r#"{"name":"x"}"#, "{x}"),
        ("{order.total-2_x}", r#"{"order.total-2_x":"5"}"#, "5"),
        ("{1}", r#"{"1":"first"}"#, "first"),
        ("Sláinte 😀 {a}", r#"{"a":"é"}"#, "Sláinte 😀 é"),
    ] {
        assert_eq!(render(template, params).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn values_are_put_in_as_they_were_written() {
    for (value, text) in [
        ("1.50", "1.50"),
        ("-0", "-0"),
        ("1e5", "1e5"),
        ("12345678901234567890123.10", "12345678901234567890123.10"),
        ("true", "true"),
        ("false", "false"),
        (r#""€ \"5\" \u00e9 \ud83d\ude00""#, "€ \"5\" é 😀"),
        (r#""{x} }} {{""#, "{x} }} {{"),
    ] {
        assert_eq!(render("{v}", &format!("{{ \"v\" : {value} }}")).as_deref(), Ok(text), "{value}");
    }
    assert_eq!(render("{v}", r#"{"v":"first","v":"last"}"#).as_deref(), Ok("last"), "as jsonb has it");
}

#[test]
fn no_params_are_empty_params() {
    for params in ["", "  ", "null", "{}", " { } "] {
        assert_eq!(render("Hi {name|there}", params).as_deref(), Ok("Hi there"), "{params:?}");
    }
}

#[test]
fn a_missing_parameter_is_named() {
    for params in ["", "{}", r#"{"first_name":null}"#, r#"{"First_Name":"x"}"#] {
        let refusal = refusal("Hi {first_name}", params);
        assert_eq!(refusal.code, code::MISSING_PARAMETER);
        assert!(refusal.reason.contains("'first_name'"), "{}", refusal.reason);
    }
}

#[test]
fn params_that_cannot_be_used_are_refused_without_being_quoted() {
    for (params, part) in [
        ("[1,\"topsecret\"]", "not a JSON object"),
        ("\"topsecret\"", "not a JSON object"),
        ("17", "not a JSON object"),
        ("true", "not a JSON object"),
        ("{\"v\": \"topsecret\"", "line 1, column"),
        ("{\"v\": topsecret}", "line 1, column"),
        ("{\"v\": \"topsecret\"} x", "line 1, column"),
        ("{\n\"v\": 01}", "line 2, column"),
        ("{'v': 'topsecret'}", "line 1, column"),
        (r#"{"v": {"topsecret":1}}"#, "'v' is a JSON object or array"),
        (r#"{"v": ["topsecret"]}"#, "'v' is a JSON object or array"),
        (r#"{"v": "\ud800topsecret"}"#, "'v' has a \\u escape"),
        (r#"{"v": "topsecret\udc00"}"#, "'v' has a \\u escape"),
        (r#"{"\ud800": "topsecret"}"#, "not valid JSON"),
        (r#"{"v": "topsecret\u0000"}"#, "'v' contains a NUL"),
    ] {
        let refusal = refusal("{v}", params);
        assert_eq!(refusal.code, code::BAD_PARAMETERS, "{params}");
        assert!(refusal.reason.contains(part), "{params}: {}", refusal.reason);
        assert!(!refusal.reason.contains("topsecret"), "{}", refusal.reason);
    }
}

#[test]
fn nested_values_that_no_placeholder_uses_do_no_harm() {
    assert_eq!(render("Hi {v}", r#"{"v":"x","items":[1,{"a":2}]}"#).as_deref(), Ok("Hi x"));
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let params = format!("{{\"v\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(refusal("{v}", &params).code, code::BAD_PARAMETERS);
}

#[test]
fn the_rendered_text_is_bounded() {
    let value = "x".repeat(MAX_BYTES / 2);
    let params = format!("{{\"v\":\"{value}\"}}");
    assert_eq!(render("{v}{v}", &params).map(|text| text.len()), Ok(MAX_BYTES));
    assert_eq!(refusal("{v}{v}.", &params).code, code::TOO_LONG);
    let params = format!("{{\"v\":\"{}\"}}", "x".repeat(super::MAX_PARAMS_BYTES));
    assert_eq!(refusal("{v}", &params).code, code::BAD_PARAMETERS);
}

#[test]
fn a_malformed_template_says_where_and_what() {
    for (template, line, column, problem) in [
        ("a } b", 1, 3, Problem::StrayClose),
        ("a {name", 1, 3, Problem::NotClosed),
        ("{", 1, 1, Problem::NotClosed),
        ("{{{", 1, 3, Problem::NotClosed),
        ("{}", 1, 1, Problem::NoName),
        ("{|x}", 1, 1, Problem::NoName),
        ("{ name }", 1, 2, Problem::BadName(' ')),
        ("á\nbé {náme}", 2, 6, Problem::BadName('á')),
        ("{first{x}}", 1, 7, Problem::Nested),
        ("{a|b{{c}", 1, 5, Problem::Nested),
        ("x\0", 1, 2, Problem::Nul),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert_eq!((error.line, error.column, error.problem), (line, column, problem), "{template:?}");
        assert!(error.to_string().starts_with(&format!("line {line}, column {column}: ")), "{error}");
    }
    let long = format!("{{{}}}", "n".repeat(65));
    assert_eq!(Template::parse(&long).unwrap_err().problem, Problem::NameTooLong);
}

#[test]
fn the_names_of_a_template_can_be_listed() {
    let template = Template::parse("{a} {b|x} {{c}} {a}").unwrap();
    assert_eq!(template.names().collect::<Vec<_>>(), ["a", "b", "a"]);
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_grows_without_bound(template in "[{}|a-c .\n\\x00😀]{0,60}", params in "\\PC{0,60}") {
        if let (Ok(template), Ok(params)) = (Template::parse(&template), Params::parse(&params))
            && let Ok(text) = template.render(&params)
        {
            prop_assert!(text.len() <= MAX_BYTES);
        }
    }

    #[test]
    fn params_that_look_like_json_never_panic(params in r#"[{}\[\]",:0-9a-fu\\ +.eEnlt-]{0,60}"#) {
        let _ = Params::parse(&params);
    }

    #[test]
    fn escaped_text_comes_out_as_it_went_in(text in "[^\\x00]{0,60}") {
        let template = text.replace('{', "{{").replace('}', "}}");
        prop_assert_eq!(render(&template, "{}"), Ok(text));
    }

    #[test]
    fn any_value_comes_out_as_it_went_in(value in "[^\\x00]{0,60}", before in "[a-z ]{0,9}") {
        let params = serde_json::json!({ "v": value }).to_string();
        prop_assert_eq!(render(&format!("{before}{{v}}"), &params), Ok(format!("{before}{value}")));
    }

    #[test]
    fn a_default_is_used_exactly_when_there_is_no_value(default in "[^{}\\x00]{0,20}", value in proptest::option::of("[^\\x00]{0,20}")) {
        let params = serde_json::json!({ "v": value }).to_string();
        let expected = value.unwrap_or_else(|| default.clone());
        prop_assert_eq!(render(&format!("{{v|{default}}}"), &params), Ok(expected));
    }
}
