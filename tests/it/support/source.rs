//! Reads Rust source as far as the house rules need it: which paths a file names, and on which line.
//!
//! A lexer and no parser: it knows comments, literals, `use` trees and `#[cfg(test)]`, and nothing of scopes or
//! macros. What it cannot see is a path built by a macro.

/// A path such as `crate::store::Store` or `tokio::time::sleep`, as written, with `use` groups spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourcePath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl SourcePath {
    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
    }

    pub(crate) fn ends_with(&self, suffix: &str) -> bool {
        let mut segments = self.segments.iter().rev();
        suffix
            .split("::")
            .collect::<Vec<_>>()
            .iter()
            .rev()
            .all(|wanted| segments.next().is_some_and(|s| s == wanted))
    }

    pub(crate) fn shown(&self) -> String {
        self.segments.join("::")
    }
}

/// Every path that the source names outside comments, literals and what is compiled for tests only.
pub(crate) fn paths_outside_tests(source: &str) -> Vec<SourcePath> {
    let tokens = without_tests(tokens_of(source));
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at += 1;
            read_use_tree(&tokens, &mut at, &[], &mut paths);
        } else if is_word(&tokens[at].text) {
            let line = tokens[at].line;
            let segments = read_segments(&tokens, &mut at);
            paths.push(SourcePath { line, segments });
        } else {
            at += 1;
        }
    }
    paths
}

#[derive(Debug, Clone)]
struct Token {
    line: usize,
    /// A word, `::`, or one character.
    text: String,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// `a::b::c`, leaving `at` behind it.
fn read_segments(tokens: &[Token], at: &mut usize) -> Vec<String> {
    let mut segments = vec![tokens[*at].text.clone()];
    *at += 1;
    while *at + 1 < tokens.len() && tokens[*at].text == "::" && is_word(&tokens[*at + 1].text) {
        segments.push(tokens[*at + 1].text.clone());
        *at += 2;
    }
    segments
}

/// `a::{b, c::d, self} as e`, each leaf a path of its own. Stops before `,`, `}` or `;`.
fn read_use_tree(tokens: &[Token], at: &mut usize, prefix: &[String], paths: &mut Vec<SourcePath>) {
    let mut segments = prefix.to_vec();
    let mut line = None;
    while *at < tokens.len() {
        let token = &tokens[*at];
        match token.text.as_str() {
            "," | "}" | ";" => break,
            "{" => {
                *at += 1;
                while *at < tokens.len() && tokens[*at].text != "}" {
                    read_use_tree(tokens, at, &segments, paths);
                    if tokens.get(*at).is_some_and(|token| token.text == ",") {
                        *at += 1;
                    } else if tokens.get(*at).is_some_and(|token| token.text == ";") {
                        return;
                    }
                }
                *at += 1;
                return;
            }
            "as" => *at += 2,
            "self" if !segments.is_empty() => {
                line.get_or_insert(token.line);
                *at += 1;
            }
            text => {
                if is_word(text) || text == "*" {
                    segments.push(text.to_owned());
                    line.get_or_insert(token.line);
                }
                *at += 1;
            }
        }
    }
    if let Some(line) = line {
        paths.push(SourcePath { line, segments });
    }
}

/// Drops each item behind `#[cfg(test)]`, and everything behind `#![cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < texts.len() {
        if texts[at..].starts_with(&["#", "!", "[", "cfg", "(", "test", ")", "]"]) {
            break;
        }
        if texts[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = end_of_item(&texts, at + 7);
        } else {
            kept.push(at);
            at += 1;
        }
    }
    let mut kept = kept.into_iter().peekable();
    let keep = |(at, token): (usize, Token)| (kept.next_if_eq(&at).is_some()).then_some(token);
    tokens.into_iter().enumerate().filter_map(keep).collect()
}

/// Behind the `;`, `,` or closing brace that ends the item starting at `at`.
fn end_of_item(texts: &[&str], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < texts.len() {
        match texts[at] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                // A `use` tree has braces too, and ends with its semicolon.
                if depth == 0 && texts.get(at + 1) != Some(&";") {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn tokens_of(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens: Vec<Token> = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match chars[at] {
            c if c.is_whitespace() => at += 1,
            '/' if chars.get(at + 1) == Some(&'/') => at = end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => at = end_of_block_comment(&chars, at),
            '"' => at = end_of_string(&chars, at),
            '\'' => at = end_of_char_or_lifetime(&chars, at),
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push(Token { line, text: "::".to_owned() });
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                    at += 1;
                }
                let word: String = chars[start..at].iter().collect();
                match end_of_raw_string(&chars, &word, at) {
                    Some(end) => at = end,
                    None => tokens.push(Token { line, text: word }),
                }
            }
            c => {
                tokens.push(Token { line, text: c.to_string() });
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn end_of_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        if chars[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if chars[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `'x'` and `'\n'` are literals, `'a` is a lifetime.
fn end_of_char_or_lifetime(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        return chars[at + 3..].iter().position(|c| *c == '\'').map_or(chars.len(), |length| at + length + 4);
    }
    if chars.get(at + 2) == Some(&'\'') { at + 3 } else { at + 1 }
}

/// Behind `r"…"`, `br#"…"#` and the like, if `prefix` opens one at `at`.
fn end_of_raw_string(chars: &[char], prefix: &str, at: usize) -> Option<usize> {
    if !matches!(prefix, "r" | "br" | "cr") {
        return None;
    }
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = at + hashes + 1;
    let length = chars[body..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(chars.len(), |length| body + length + close.len()))
}

#[cfg(test)]
mod tests {
    use super::paths_outside_tests;

    fn shown(source: &str) -> Vec<String> {
        let paths = paths_outside_tests(source).into_iter();
        paths
            .filter(|path| path.segments.len() > 1)
            .map(|path| format!("{} {}", path.line, path.shown()))
            .collect()
    }

    #[test]
    fn groups_are_spelled_out_with_their_lines() {
        let source = "use std::{fs, net::{TcpStream, self}};\npub use crate::{\n    store::Store,\n    clock as c,\n};\n";
        assert_eq!(
            shown(source),
            ["1 std::fs", "1 std::net::TcpStream", "1 std::net", "3 crate::store::Store", "4 crate::clock"]
        );
    }

    #[test]
    fn paths_in_expressions_are_seen() {
        assert_eq!(
            shown("fn f<'a>(x: &'a str) {\n  tracing::info!(\"{x}\");\n  crate::a::b(':', '\\'')\n}"),
            ["2 tracing::info", "3 crate::a::b"]
        );
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = "// crate::a::b\n/* crate::c /* crate::d */ crate::e */\nlet s = \"crate::f \\\" crate::g\";\n\
                      let r = r#\"crate::h \" crate::i\"#; crate::seen()";
        assert_eq!(shown(source), ["4 crate::seen"]);
    }

    #[test]
    fn what_is_compiled_for_tests_only_is_left_out() {
        let source = "#[cfg(test)]\nuse crate::{a, b};\n#[cfg(test)]\nmod tests { use crate::c; fn f() { crate::d() } }\n\
                      use crate::seen;\n#[cfg(test)] #[derive(Debug)]\nstruct S;\nuse crate::too;";
        assert_eq!(shown(source), ["5 crate::seen", "8 crate::too"]);
    }
}
