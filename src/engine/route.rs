//! Which gateway a message goes to: its own wish, else the longest matching prefix rule, else the default. Pure.

use std::collections::HashMap;

use crate::config::{RouteRule, Routing};
use crate::engine::plan::GatewayIndex;
use crate::message::{Lane, Refusal};

/// `gateway` names something that is not configured.
pub const UNKNOWN_GATEWAY: &str = "unknown_gateway";

#[derive(Debug)]
pub struct Router {
    by_name: HashMap<String, GatewayIndex>,
    /// Best first.
    rules: Vec<(RouteRule, GatewayIndex)>,
    default: GatewayIndex,
}

impl Router {
    /// `names` in the order of the gateway indexes. The configuration has checked that rules and default name them.
    pub fn new<'a>(routing: &Routing, names: impl Iterator<Item = &'a str>) -> Router {
        let by_name: HashMap<String, GatewayIndex> =
            names.enumerate().map(|(index, name)| (name.to_owned(), index)).collect();
        let mut rules: Vec<(RouteRule, GatewayIndex)> = routing
            .rules
            .iter()
            .filter_map(|rule| by_name.get(&rule.gateway).map(|index| (rule.clone(), *index)))
            .collect();
        rules.sort_by_key(|(rule, _)| (std::cmp::Reverse(rule.prefix.len()), rule.lane.is_none()));
        let default = by_name.get(&routing.default_gateway).copied().unwrap_or(0);
        Router { by_name, rules, default }
    }

    /// `recipient` in international digits.
    pub fn choose(&self, wish: Option<&str>, recipient: &str, lane: Lane) -> Result<GatewayIndex, Refusal> {
        if let Some(name) = wish.map(str::trim).filter(|name| !name.is_empty()) {
            return self.by_name.get(name).copied().ok_or_else(|| {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
                Refusal::new(
                    UNKNOWN_GATEWAY,
                    format!("no gateway is called \"{shown}\"; leave the column empty to have one chosen"),
                )
            });
        }
        let rule = self
            .rules
            .iter()
            .find(|(rule, _)| recipient.starts_with(&rule.prefix) && rule.lane.is_none_or(|l| l == lane));
        Ok(rule.map_or(self.default, |(_, index)| *index))
    }
}

#[cfg(test)]
mod tests {
    use super::{Router, UNKNOWN_GATEWAY};
    use crate::config::{RouteRule, Routing};
    use crate::message::Lane;

    fn router() -> Router {
        let rule = |prefix: &str, lane: Option<Lane>, gateway: &str| RouteRule {
            prefix: prefix.to_owned(),
            lane,
            gateway: gateway.to_owned(),
        };
        let routing = Routing {
            default_gateway: "main".to_owned(),
            rules: vec![
                rule("44", None, "uk"),
                rule("", Some(Lane::Bulk), "cheap"),
                rule("447", None, "mobile"),
                rule("44", Some(Lane::Urgent), "main"),
            ],
        };
        Router::new(&routing, ["cheap", "main", "mobile", "uk"].into_iter())
    }

    #[test]
    fn the_longest_prefix_wins_and_a_lane_breaks_the_tie() {
        let router = router();
        let chosen = |recipient: &str, lane| router.choose(None, recipient, lane).ok();
        assert_eq!(chosen("447700900123", Lane::Normal), Some(2));
        assert_eq!(chosen("442079460000", Lane::Normal), Some(3));
        assert_eq!(chosen("442079460000", Lane::Urgent), Some(1));
        assert_eq!(chosen("353871234567", Lane::Bulk), Some(0));
        assert_eq!(chosen("353871234567", Lane::Normal), Some(1));
    }

    #[test]
    fn a_row_may_name_its_gateway_and_a_wrong_name_is_refused() {
        let router = router();
        assert_eq!(router.choose(Some("uk"), "353871234567", Lane::Bulk), Ok(3));
        assert_eq!(router.choose(Some("  "), "353871234567", Lane::Normal), Ok(1));
        let refusal = router.choose(Some("nowhere"), "353871234567", Lane::Normal).unwrap_err();
        assert_eq!(refusal.code, UNKNOWN_GATEWAY);
        assert!(refusal.reason.contains("nowhere"));
    }
}
