//! Feature levels: what the members of a cluster, which may run different versions of weir for a while, all understand.
//!
//! Each release that adds a command, a field of one, or a section of the state has a level of its own. The leader commits the lowest
//! level of all members ([`Action::RaiseLevel`](crate::Action::RaiseLevel)); nothing newer than that is proposed, so that an upgrade
//! goes machine by machine. It only rises. A member that meets something it does not know all the same stops there: if it passed it
//! over, its state would be another than the others'.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::state::State;

/// Of this program. 2 brought `since` and `claim`, `Succeed`, `RollBack` and `DeleteAllSeen`, generations of steering that are kept by
/// need and numbers of virtual IPs, and the levels themselves; 3 `Restore`, `since` for custom data, and an authority of
/// the cluster's own; 4 tokens of the admin API, and on whose behalf a command is; 5 that members' certificates are revoked; 6 waiting
/// rooms and lotteries; 7 leases, and keys of sections that controllers write; 8 purges of caches; 9 documents that controllers make;
/// 10 that a member says that it steers, generations of steering that repeat themselves are kept once, and what their hash is; 11 law 1 of
/// waiting rooms, and that such generations are kept where slots may have forgotten who had them; 12 that what controllers make is kept in
/// namespaces of their own, that several members are written down at once, and law 2 of waiting rooms; 13 that an authority is followed
/// by another, that a grant is for namespaces, that each of those members is for itself, and that what comes back fits beside what is
/// there; 14 that rules of servers stand beside their documents, and are written together with what they lead to, and that virtual IPs go
/// by prefix; 15 that virtual IPs have backends, servers that do not run Weir; 16 that whoever has come with a token may ask
/// again; 17 that a member says when others may have taken its new flows, and that generations of steering keep it.
pub const LEVEL: u32 = 17;

/// Of programs and clusters that say nothing.
pub const FIRST_LEVEL: u32 = 1;

/// Why a state cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// A newer program wrote it; in words, what in it is new.
    Newer(String),
    Damaged(String),
}

impl State {
    /// The cluster's feature level.
    pub fn level(&self) -> u32 {
        self.view.level.max(FIRST_LEVEL)
    }

    /// Reads a snapshot for a program of `level`. Refuses one that holds what such a program does not know, rather than drop it.
    pub fn read(text: &[u8], level: u32) -> Result<State, Unread> {
        let damaged = |error: serde_json::Error| Unread::Damaged(error.to_string());
        let shape: Shape = serde_json::from_slice(text).map_err(damaged)?;
        if let Some(of) = shape.level.filter(|of| *of > level) {
            return Err(Unread::Newer(format!("it is of feature level {of}")));
        }
        let mut known = Shape::of(&State::default());
        known.sections.extend(["view.tokens", "view.sections", "view.purges", "rooms", "leases"].map(str::to_owned));
        if let Some(section) = shape.sections.into_iter().find(|section| !known.sections.contains(section)) {
            return Err(Unread::Newer(format!("it has a section {section}")));
        }
        serde_json::from_slice(text).map_err(damaged)
    }
}

/// What a state consists of.
struct Shape {
    level: Option<u32>,
    sections: Vec<String>,
}

impl Shape {
    fn of(state: &State) -> Shape {
        let text = serde_json::to_vec(state).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Shape { level: None, sections: Vec::new() })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct View {
            level: Option<u32>,
            #[serde(flatten)]
            rest: BTreeMap<String, IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Whole {
            #[serde(default)]
            view: View,
            #[serde(flatten)]
            rest: BTreeMap<String, IgnoredAny>,
        }
        let whole = Whole::deserialize(deserializer)?;
        let published = whole.view.rest.into_keys().map(|section| format!("view.{section}"));
        Ok(Shape { level: whole.view.level, sections: whole.rest.into_keys().chain(published).collect() })
    }
}

/// Reads a part of a command that is read elsewhere too, where what is new may be passed over.
pub(crate) fn strict<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |field| unknown.push(field.to_string())).map_err(D::Error::custom)?;
    match unknown.first() {
        Some(field) => Err(D::Error::custom(format!("unknown field `{field}`"))),
        None => Ok(read),
    }
}

pub(crate) fn strict_option<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    strict(deserializer)
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Newer(what) => write!(f, "a newer weir wrote it: {what}"),
            Unread::Damaged(reason) => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, Entry, PutMode};
    use control_api::{Snapshot, Token};
    use serde_json::json;

    #[test]
    fn what_is_not_known_of_a_command_is_an_error_wherever_it_stands() {
        let member = json!({"name": "n1", "later": 1});
        for (what, action) in [
            ("action", json!({"later": {}})),
            ("a field", json!({"delete": {"names": ["a"], "later": true}})),
            ("a field of an entry", json!({"put": {"mode": "create", "entries": [{"document": {}, "later": 1}]}})),
            (
                "a field of a claim",
                json!({"put": {"mode": "create", "entries": [{"document": {}, "claim": {"later": 1}}]}}),
            ),
            ("a mode", json!({"put": {"mode": "later", "entries": []}})),
            ("a field of a member", json!({"putMember": {"member": member}})),
            ("a field of a kind", json!({"putCustomKind": {"mode": "create", "kind": {"name": "k", "later": 1}}})),
        ] {
            let command = json!({"request": 1, "now": "t", "action": action});
            assert!(serde_json::from_value::<Command>(command).is_err(), "{what}");
        }
        let known = json!({"request": 1, "now": "t", "action": {"putMember": {"member": {"name": "n1"}}}});
        assert!(serde_json::from_value::<Command>(known.clone()).is_ok());
        let mut later = known;
        later["later"] = json!(1);
        assert!(serde_json::from_value::<Command>(later).is_err(), "beside the action");
        // A document is its writer's own.
        let entries = json!([{"document": {"name": "a", "kind": "K", "later": {"later": 1}}}]);
        let put = json!({"request": 1, "now": "t", "action": {"put": {"mode": "create", "entries": entries}}});
        assert!(serde_json::from_value::<Command>(put).is_ok());
    }

    #[test]
    fn a_state_of_a_newer_program_is_refused_and_not_cut_down() {
        let mut state = State::default();
        state
            .apply(Command { request: 1, now: "t".into(), action: Action::RaiseLevel { level: 2 }, by: None })
            .answer
            .unwrap();
        let text = serde_json::to_vec(&state).unwrap();
        assert_eq!(State::read(&text, 2), Ok(state.clone()));
        assert_eq!(State::read(&text, 1), Err(Unread::Newer("it is of feature level 2".into())));
        let mut value = serde_json::to_value(&state).unwrap();
        value["view"]["meshes"] = json!({});
        let read = |value: &Value| State::read(value.to_string().as_bytes(), LEVEL).unwrap_err().to_string();
        assert!(read(&value).contains("section view.meshes"), "{}", read(&value));
        let mut value = serde_json::to_value(&state).unwrap();
        value["meshes"] = json!([]);
        assert!(read(&value).contains("section meshes"));
        assert!(matches!(State::read(b"{\"view\": ", LEVEL), Err(Unread::Damaged(_))));
    }

    #[test]
    fn a_backup_is_of_the_level_of_the_newest_that_it_holds() {
        // What a reader of level 3 knows of a snapshot. A section beside these is of a later level, and left out where it is empty.
        let third = [
            "clusterId",
            "clusterName",
            "version",
            "objects",
            "changed",
            "members",
            "steering",
            "customKinds",
            "customData",
            "customChanged",
            "tickets",
            "succeeds",
            "level",
        ];
        let level = |backup: &Snapshot| Action::Restore { backup: Box::new(backup.clone()), since: None }.level();
        let sections = |backup: &Snapshot| -> Vec<String> {
            serde_json::to_value(backup).unwrap().as_object().unwrap().keys().cloned().collect()
        };
        let plain = Snapshot::default();
        assert_eq!(level(&plain), 3);
        assert!(sections(&plain).iter().all(|section| third.contains(&section.as_str())), "{:?}", sections(&plain));
        let with = |section: &str, value: Value| -> Snapshot {
            let mut backup = serde_json::to_value(&plain).unwrap();
            backup[section] = value;
            serde_json::from_value(backup).unwrap()
        };
        let tokens = with("tokens", json!({"ci": Token::default()}));
        assert!(sections(&tokens).contains(&"tokens".to_owned()));
        assert_eq!(level(&tokens), 4, "members of level 3 would stop at it");
        let keyed = json!({"owner": "r", "generation": 1, "value": {}});
        let learned = with("sections", json!({"endpoints": {"r/s": keyed}}));
        assert!(sections(&learned).contains(&"sections".to_owned()));
        assert_eq!(level(&learned), 7, "members of level 6 would stop at it");
        let made = with("sections", json!({"rules": {"c/web#00000 a": keyed}}));
        assert_eq!(level(&made), 14, "members of level 13 would serve nothing of it");
        let purges = with("purges", json!([{"number": 1, "cache": "", "what": "all"}]));
        assert_eq!((level(&purges), sections(&purges).contains(&"purges".to_owned())), (8, true));
        let steers = with("members", json!({"n1": {"name": "n1", "steers": true}}));
        let of = json!({"of": "sourceIP", "ipv4": 0, "ipv6": 0, "seed": 7});
        let hashed = with("steering", json!({"vip": {"generations": [{"number": 1, "machines": [], "hash": of}]}}));
        assert_eq!((level(&steers), level(&hashed)), (10, 10), "members of level 9 would stop at either");
        let lapsed = with("members", json!({"n1": {"name": "n1", "lapsedMs": 1}}));
        let kept = with("steering", json!({"vip": {"generations": [{"number": 1, "machines": [], "lapsed": [1]}]}}));
        assert_eq!((level(&lapsed), level(&kept)), (17, 17), "members of level 16 would stop at either");
    }

    #[test]
    fn a_level_rises_and_says_what_may_be_proposed() {
        let mut state = State::default();
        assert_eq!(state.level(), FIRST_LEVEL);
        for (turn, level) in [(1, 2), (2, 1)] {
            let done =
                state.apply(Command { request: turn, now: "t".into(), action: Action::RaiseLevel { level }, by: None });
            assert!(done.answer.is_ok());
            assert_eq!(state.level(), 2, "it does not sink");
        }
        let server = json!({"name": "s", "kind": "HTTPServer", "port": 80});
        let put = Action::Put { mode: PutMode::Create, entries: vec![Entry::new(server.into(), Vec::new())] };
        assert_eq!(put.level(), 2, "it says what it claims");
        assert_eq!(put.for_level(1).level(), 1);
        let seen = Action::Delete { names: vec!["s".into()], since: Some(1) };
        assert_eq!(seen.for_level(1).level(), 2, "what was seen is not left out");
        assert_eq!(Action::delete("s").level(), 1);
    }
}
