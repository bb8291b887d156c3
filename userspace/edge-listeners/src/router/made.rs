//! Rules that a controller makes, one by one: of ten thousand hosts the one that changed is sent, read and compiled.
//!
//! They stand beside the server's document, in the order of their keys, and each is as an entry of `rules` there: see
//! `control_api::rules` for how they are called. A rule that cannot be used leaves what was there before.

use super::Rule;
use crate::traffic::PipelineSlot;
use base_model::{Findings, Kept, RouterKind, RuleSpec, problem};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Those of one server, by their keys.
pub type MadeRules = BTreeMap<Arc<str>, Arc<MadeRule>>;

/// One of them.
#[derive(Debug)]
pub struct MadeRule {
    spec: Kept,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Read(Box<RuleSpec>),
    /// For the kind of router that its server has.
    Compiled(RouterKind, Arc<Rule>),
}

impl MadeRule {
    /// Reads an entry of `rules`. The error says what is wrong with it.
    pub fn read(spec: &Kept) -> Result<Arc<MadeRule>, String> {
        let rule = decoded(spec)?;
        // As a server's document would be.
        let mut findings = Findings::default();
        rule.validate("", RouterKind::Ordered, &mut findings);
        if !findings.problems.is_empty() {
            return Err(problem::render(&findings.problems));
        }
        if rule.paths.iter().any(|path| path.backend.is_empty()) {
            return Err("a rule that is made leads to pipelines, and one of its paths names none".to_owned());
        }
        Ok(Arc::new(MadeRule { spec: spec.clone(), state: Mutex::new(State::Read(Box::new(rule))) }))
    }

    /// Whether it was read from this.
    pub fn is_of(&self, spec: &Kept) -> bool {
        self.spec == *spec
    }

    /// Compiled: once, however many routers it is in. It stays with its server, whose pipelines it leads to.
    pub(super) fn rule(&self, kind: RouterKind, slot: &dyn Fn(&str) -> Arc<PipelineSlot>) -> Result<Arc<Rule>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let nowhere = |_: usize| slot("");
        let rule = match &*state {
            State::Compiled(of, rule) if *of == kind => return Ok(rule.clone()),
            State::Compiled(..) => Rule::new(&decoded(&self.spec)?, kind, &nowhere, slot)?,
            State::Read(spec) => Rule::new(spec, kind, &nowhere, slot)?,
        };
        let rule = Arc::new(rule);
        *state = State::Compiled(kind, rule.clone());
        Ok(rule)
    }
}

fn decoded(spec: &Kept) -> Result<RuleSpec, String> {
    base_model::decode::<RuleSpec>(&spec.read(), "")
        .map(|decoded| decoded.value)
        .map_err(|problems| problem::render(&problems))
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::super::{COMPILED, Router};
    use super::*;
    use base_model::HttpServerSpec;
    use serde_json::{Value, json};

    fn made(rules: &[(&str, Value)]) -> MadeRules {
        rules.iter().map(|(key, rule)| (Arc::from(*key), MadeRule::read(&Kept::of(rule)).unwrap())).collect()
    }

    fn host(n: usize, backend: &str) -> (String, Value) {
        (
            format!("0000 h{n}.test"),
            json!({"host": format!("h{n}.test"), "paths": [{"pathPrefix": "/", "backend": backend}]}),
        )
    }

    fn router(spec: &HttpServerSpec, rules: &MadeRules) -> Router {
        Router::new("c/web", spec, rules, &|name| PipelineSlot::empty(name)).unwrap()
    }

    fn leads(router: &Router, text: &str) -> String {
        let (request, client) = request(text);
        match router.route(&request, Some(client)) {
            Ok((route, _)) => route.pipeline.name().to_string(),
            Err(status) => status.to_string(),
        }
    }

    #[test]
    fn one_of_many_hosts_is_compiled_and_the_others_are_shared() {
        const HOSTS: usize = 1_000;
        let all: Vec<(String, Value)> = (0..HOSTS).map(|n| host(n, "a")).collect();
        let all: Vec<(&str, Value)> = all.iter().map(|(key, rule)| (key.as_str(), rule.clone())).collect();
        let (mut rules, spec) = (made(&all), HttpServerSpec::default());
        let count = || COMPILED.with(|compiled| compiled.replace(0));
        count();
        let before = router(&spec, &rules);
        assert_eq!(count(), HOSTS);
        let (key, changed) = host(7, "b");
        rules.insert(key.as_str().into(), MadeRule::read(&Kept::of(&changed)).unwrap());
        let after = router(&spec, &rules);
        assert_eq!(count(), 1, "of {HOSTS} rules one is another");
        for (text, then, now) in
            [("GET h7.test/x", "c/a", "c/b"), ("GET h8.test/", "c/a", "c/a"), ("GET x/", "404", "404")]
        {
            assert_eq!((leads(&before, text).as_str(), leads(&after, text).as_str()), (then, now), "{text}");
        }
        rules.remove(key.as_str());
        assert_eq!((leads(&router(&spec, &rules), "GET h7.test/"), count()), ("404".to_owned(), 0));
        // The document's own are compiled with it, and asked first.
        let own = json!({"port": 1, "rules": [{"host": "h8.test", "paths": [{"backend": "own"}]}]});
        let own = base_model::decode::<HttpServerSpec>(&own, "").unwrap().value;
        assert_eq!((leads(&router(&own, &rules), "GET h8.test/"), count()), ("c/own".to_owned(), 1));
        let tree = HttpServerSpec { router_kind: RouterKind::RadixTree, ..spec };
        router(&tree, &rules);
        assert_eq!(count(), HOSTS - 1, "of another kind of router all are");
    }

    #[test]
    fn they_are_asked_in_the_order_of_their_keys() {
        let rules = made(&[
            ("9999 ", json!({"paths": [{"backend": "any"}]})),
            ("0100 *.a.test", json!({"hostRegexp": r"(?i)^[^.]+\.a\.test$", "paths": [{"backend": "wild"}]})),
            ("0000 x.a.test", json!({"host": "x.a.test", "paths": [{"path": "/x", "backend": "x"}]})),
        ]);
        let router = router(&HttpServerSpec::default(), &rules);
        for (text, wanted) in [
            ("GET x.a.test/x", "c/x"),
            ("GET x.a.test/", "c/wild"),
            ("GET y.a.test/x", "c/wild"),
            ("GET a.test/", "c/any"),
        ] {
            assert_eq!(leads(&router, text), wanted, "{text}");
        }
    }

    #[test]
    fn one_that_cannot_be_used_is_refused_with_its_reason() {
        for (rule, wanted) in [
            (json!({"paths": [{"path": "x", "backend": "a"}]}), "does not begin with /"),
            (json!({"hostRegexp": "(", "paths": []}), "hostRegexp"),
            (json!({"paths": [{"path": "/x"}]}), "backend"),
            (
                json!({"paths": [{"path": "/x", "backendPool": {"servers": [{"url": "http://127.0.0.1:1"}]}}]}),
                "names none",
            ),
            (json!([]), ""),
        ] {
            let refused = MadeRule::read(&Kept::of(&rule)).unwrap_err();
            assert!(refused.contains(wanted), "{rule}: {refused}");
        }
    }
}
