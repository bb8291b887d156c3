//! Documents of Easegress v1, and of those who upgraded half-way, as v2 documents.
//!
//! `HTTPPipeline` becomes `Pipeline`. A Proxy's `mainPool` and `candidatePools` become `pools`. The filters Retryer, CircuitBreaker and
//! TimeLimiter become policies and the pools' `timeout`; v1 could limit them to some URLs, v2 cannot, so that is said in a warning.
//! Everything else is left as it is, and judged by the rules of v2.

use serde_json::{Map, Value, json};

use crate::GoDuration;
use crate::kinds::LEGACY_PIPELINE;
use crate::pipeline::END;
use crate::problem::{Warning, at, nth};

/// A document in today's form and what its author should know about the change.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    pub value: Value,
    pub warnings: Vec<Warning>,
}

/// `None` when the document needs no translation.
pub fn translate_v1(value: &Value) -> Option<Translation> {
    let document = value.as_object()?;
    let kind = text(document, "kind");
    let legacy = kind == LEGACY_PIPELINE;
    let filters = field(document, "filters").and_then(Value::as_array);
    let old_shape = |filter: &Value| {
        filter.as_object().is_some_and(|f| text(f, "kind") == "Proxy" && field(f, "mainPool").is_some())
    };
    let half_way = kind == "Pipeline" && filters.is_some_and(|filters| filters.iter().any(old_shape));
    if !legacy && !half_way {
        return None;
    }
    let mut document = document.clone();
    let mut warnings = Vec::new();
    if legacy {
        put(&mut document, "kind", "Pipeline".into());
        remove(&mut document, "version");
        warnings.push(Warning::new("kind", "HTTPPipeline is the v1 name: read as Pipeline and stored so"));
    }
    let mut resilience = match remove(&mut document, "resilience") {
        Some(Value::Array(policies)) => policies,
        _ => Vec::new(),
    };
    let mut proxies = PoolSettings::default();
    let mut removed = Vec::new();
    if let Some(Value::Array(filters)) = field_mut(&mut document, "filters") {
        let mut kept = Vec::new();
        for (i, mut filter) in std::mem::take(filters).into_iter().enumerate() {
            let place = nth("filters", i);
            let Some(map) = filter.as_object_mut() else {
                kept.push(filter);
                continue;
            };
            match text(map, "kind").as_str() {
                "Proxy" => {
                    translate_proxy(map, &place, &mut warnings);
                    kept.push(filter);
                }
                "Mock" if legacy => {
                    translate_mock(map);
                    kept.push(filter);
                }
                policy @ ("Retryer" | "CircuitBreaker" | "TimeLimiter") => {
                    removed.push(text(map, "name"));
                    translate_policy(policy, map, &place, &mut resilience, &mut proxies, &mut warnings);
                }
                _ => kept.push(filter),
            }
        }
        proxies.apply(&mut kept);
        *filters = kept;
    }
    if !resilience.is_empty() {
        document.insert("resilience".to_owned(), Value::Array(resilience));
    }
    if let Some(Value::Array(flow)) = field_mut(&mut document, "flow") {
        remove_steps(flow, &removed);
    }
    Some(Translation { value: Value::Object(document), warnings })
}

/// What the removed filters leave behind in every pool of every Proxy.
#[derive(Default)]
struct PoolSettings {
    fields: Vec<(&'static str, Value)>,
}

impl PoolSettings {
    fn apply(&self, filters: &mut [Value]) {
        for filter in filters.iter_mut().filter_map(Value::as_object_mut).filter(|f| text(f, "kind") == "Proxy") {
            let Some(Value::Array(pools)) = field_mut(filter, "pools") else { continue };
            for pool in pools.iter_mut().filter_map(Value::as_object_mut) {
                for (name, value) in &self.fields {
                    if field(pool, name).is_none() {
                        pool.insert((*name).to_owned(), value.clone());
                    }
                }
            }
        }
    }
}

fn translate_proxy(filter: &mut Map<String, Value>, path: &str, warnings: &mut Vec<Warning>) {
    let Some(main) = remove(filter, "mainPool") else { return };
    let mut pools = Vec::new();
    if let Some(Value::Array(candidates)) = remove(filter, "candidatePools") {
        pools.extend(candidates);
    }
    pools.push(main);
    if let Some(mut mirror) = remove(filter, "mirrorPool") {
        translate_pool(&mut mirror);
        filter.insert("mirrorPool".to_owned(), mirror);
    }
    // v1 had one list of failure codes for the filter.
    let failure_codes = remove(filter, "failureCodes");
    for pool in &mut pools {
        translate_pool(pool);
        if let (Some(codes), Some(pool)) = (&failure_codes, pool.as_object_mut())
            && field(pool, "failureCodes").is_none()
        {
            pool.insert("failureCodes".to_owned(), codes.clone());
        }
    }
    if remove(filter, "fallback").is_some() {
        let message =
            "a Proxy has no fallback of its own any more, ignored; add a Fallback filter and jump to it with jumpIf";
        warnings.push(Warning::new(at(path, "fallback"), message));
    }
    if let Some(Value::Array(given)) = remove(filter, "pools") {
        warnings.push(Warning::new(at(path, "mainPool"), "given beside pools: joined"));
        pools.splice(0..0, given);
    }
    filter.insert("pools".to_owned(), Value::Array(pools));
    warnings.push(Warning::new(at(path, "mainPool"), "the v1 name: read as an entry of pools and stored so"));
}

/// v1 wrote `probability: {perMill, policy, headerHashKey}` inside the filter of a pool.
fn translate_pool(pool: &mut Value) {
    let Some(filter) = pool.as_object_mut().and_then(|pool| field_mut(pool, "filter")).and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(Value::Object(mut probability)) = remove(filter, "probability") else { return };
    for (old, new) in [("perMill", "permil"), ("policy", "policy"), ("headerHashKey", "headerHashKey")] {
        if let Some(value) = remove(&mut probability, old) {
            filter.insert(new.to_owned(), value);
        }
    }
}

/// v1 wrote the path beside the answer; v2 writes it in `match`.
fn translate_mock(filter: &mut Map<String, Value>) {
    let Some(Value::Array(rules)) = field_mut(filter, "rules") else { return };
    for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
        if field(rule, "match").is_some() {
            continue;
        }
        let mut condition = Map::new();
        for name in ["path", "pathPrefix"] {
            if let Some(value) = remove(rule, name) {
                condition.insert(name.to_owned(), value);
            }
        }
        if !condition.is_empty() {
            rule.insert("match".to_owned(), Value::Object(condition));
        }
    }
}

fn translate_policy(
    kind: &str,
    filter: &mut Map<String, Value>,
    path: &str,
    resilience: &mut Vec<Value>,
    proxies: &mut PoolSettings,
    warnings: &mut Vec<Warning>,
) {
    let urls = match field(filter, "urls") {
        Some(Value::Array(urls)) => urls.clone(),
        _ => Vec::new(),
    };
    let narrow = urls.len() > 1 || urls.iter().any(|url| !matches_everything(url));
    if kind == "TimeLimiter" {
        let of_url = |url: &Value| url.as_object().and_then(|url| field(url, "timeoutDuration").cloned());
        let candidates = urls.iter().filter_map(of_url).chain(field(filter, "defaultTimeoutDuration").cloned());
        // The longest: a request that was in time before is in time now.
        let longest = candidates
            .max_by_key(|value| value.as_str().and_then(|t| t.parse::<GoDuration>().ok()).unwrap_or_default());
        let timeout = longest.unwrap_or_else(|| json!("500ms"));
        let mut message =
            format!("TimeLimiter is no filter any more: read as timeout {timeout} of every pool and stored so");
        if narrow {
            message.push_str("; v1 had it per URL, use one pool per URL with a filter for that");
        }
        proxies.fields.push(("timeout", timeout));
        warnings.push(Warning::new(path, message));
        return;
    }
    let (new_kind, reference) =
        if kind == "Retryer" { ("Retry", "retryPolicy") } else { ("CircuitBreaker", "circuitBreakerPolicy") };
    let wanted = urls
        .first()
        .and_then(Value::as_object)
        .map(|url| text(url, "policyRef"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| text(filter, "defaultPolicyRef"));
    let mut policies = match remove(filter, "policies") {
        Some(Value::Array(policies)) => policies,
        _ => Vec::new(),
    };
    let mut names = Vec::new();
    for policy in policies.iter_mut().filter_map(Value::as_object_mut) {
        let mut name = text(policy, "name");
        if name.is_empty() {
            name = format!("{}-policy", text(filter, "name"));
        }
        if kind == "Retryer" {
            remove(policy, "countingNetworkError");
            remove(policy, "failureStatusCodes");
        } else if let Some(codes) = remove(policy, "failureStatusCodes") {
            remove(policy, "countingNetworkError");
            proxies.fields.push(("failureCodes", codes));
        }
        put(policy, "name", name.clone().into());
        put(policy, "kind", new_kind.into());
        names.push(name);
    }
    let chosen = if names.contains(&wanted) { Some(wanted) } else { names.first().cloned() };
    resilience.extend(policies);
    let Some(chosen) = chosen else {
        warnings.push(Warning::new(path, format!("{kind} without policies has no effect, removed")));
        return;
    };
    let mut message = format!(
        "{kind} is no filter any more: its policies are read as resilience, and {chosen} as {reference} of every pool"
    );
    if narrow {
        message.push_str("; v1 had it per URL, use one pool per URL with a filter for that");
    }
    proxies.fields.push((reference, chosen.into()));
    warnings.push(Warning::new(path, message));
}

/// Steps of removed filters go; jumps to them go on to the next step that stays.
fn remove_steps(flow: &mut Vec<Value>, removed: &[String]) {
    let goes = |step: &Value| step.as_object().is_some_and(|step| removed.contains(&text(step, "filter")));
    let label = |step: &Value| {
        let Some(step) = step.as_object() else { return String::new() };
        let alias = text(step, "alias");
        if alias.is_empty() { text(step, "filter") } else { alias }
    };
    let heirs: Vec<(String, String)> = flow
        .iter()
        .enumerate()
        .filter(|(_, step)| goes(step))
        .map(|(i, step)| {
            let heir = flow[i + 1..].iter().find(|later| !goes(later)).map_or_else(|| END.to_owned(), label);
            (label(step), heir)
        })
        .collect();
    flow.retain(|step| !goes(step));
    for step in flow.iter_mut().filter_map(Value::as_object_mut) {
        let Some(Value::Object(jumps)) = field_mut(step, "jumpIf") else { continue };
        for target in jumps.values_mut() {
            if let Some((_, heir)) = heirs.iter().find(|(old, _)| target.as_str() == Some(old)) {
                *target = heir.clone().into();
            }
        }
    }
}

fn matches_everything(url: &Value) -> bool {
    let Some(url) = url.as_object() else { return false };
    let any_method = field(url, "methods").and_then(Value::as_array).is_none_or(Vec::is_empty);
    let matcher = field(url, "url").and_then(Value::as_object);
    any_method
        && matcher.is_none_or(|m| text(m, "prefix") == "/" || [".*", "^/.*", "^/"].contains(&text(m, "regex").as_str()))
}

/// As the decoder finds fields: the exact name, else one that differs in case only.
fn key_of(map: &Map<String, Value>, name: &str) -> Option<String> {
    if map.contains_key(name) {
        return Some(name.to_owned());
    }
    map.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned()
}

fn field<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m Value> {
    key_of(map, name).and_then(|key| map.get(&key)).filter(|value| !value.is_null())
}

fn field_mut<'m>(map: &'m mut Map<String, Value>, name: &str) -> Option<&'m mut Value> {
    let key = key_of(map, name)?;
    map.get_mut(&key)
}

/// `shift_remove` keeps the order of what stays.
fn remove(map: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let key = key_of(map, name)?;
    map.shift_remove(&key).filter(|value| !value.is_null())
}

fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
    let key = key_of(map, name).unwrap_or_else(|| name.to_owned());
    map.insert(key, value);
}

fn text(map: &Map<String, Value>, name: &str) -> String {
    field(map, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse_document;

    fn check(v1: &str, v2: &str, warnings: &[&str]) {
        let translation = translate_v1(&parse_document(v1).unwrap()).expect("needs a translation");
        assert_eq!(crate::yaml::to_string(&translation.value), crate::yaml::to_string(&parse_document(v2).unwrap()));
        let told: Vec<String> = translation.warnings.iter().map(Warning::to_string).collect();
        assert_eq!(told, warnings);
        assert_eq!(translate_v1(&translation.value), None, "translating twice changes nothing");
    }

    #[test]
    fn the_quick_start_of_v1() {
        check(
            "name: pipeline-demo\nkind: HTTPPipeline\nflow:\n- filter: proxy\nfilters:\n- name: proxy\n  kind: Proxy\n  mainPool:\n    servers:\n    - url: http://127.0.0.1:9095\n    loadBalance: {policy: roundRobin}\n",
            "name: pipeline-demo\nkind: Pipeline\nflow:\n- filter: proxy\nfilters:\n- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n    - url: http://127.0.0.1:9095\n    loadBalance: {policy: roundRobin}\n",
            &[
                "kind: HTTPPipeline is the v1 name: read as Pipeline and stored so",
                "filters[0].mainPool: the v1 name: read as an entry of pools and stored so",
            ],
        );
    }

    #[test]
    fn candidates_come_before_the_main_pool_and_v2_kinds_are_translated_too() {
        check(
            "name: p\nkind: Pipeline\nfilters:\n- name: proxy\n  kind: Proxy\n  mainPool: {servers: [{url: 'http://a:1'}]}\n  candidatePools:\n  - servers: [{url: 'http://b:1'}]\n    filter: {probability: {perMill: 100, policy: ipHash}}\n  failureCodes: [503]\n",
            "name: p\nkind: Pipeline\nfilters:\n- name: proxy\n  kind: Proxy\n  pools:\n  - servers: [{url: 'http://b:1'}]\n    filter: {permil: 100, policy: ipHash}\n    failureCodes: [503]\n  - servers: [{url: 'http://a:1'}]\n    failureCodes: [503]\n",
            &["filters[0].mainPool: the v1 name: read as an entry of pools and stored so"],
        );
    }

    #[test]
    fn filters_that_became_policies() {
        check(
            r#"
name: p
kind: HTTPPipeline
flow:
- filter: limiter
  jumpIf: {rateLimited: END}
- filter: auth
  jumpIf: {invalid: retryer}
- filter: breaker
- filter: retryer
- filter: proxy
filters:
- {name: limiter, kind: RateLimiter}
- {name: auth, kind: Validator}
- name: breaker
  kind: CircuitBreaker
  policies: [{name: count, slidingWindowSize: 10, failureStatusCodes: [500, 503]}]
  defaultPolicyRef: count
  urls: [{methods: [GET], url: {prefix: /a}}]
- name: retryer
  kind: Retryer
  policies: [{name: again, maxAttempts: 2}]
  defaultPolicyRef: again
- name: time
  kind: TimeLimiter
  defaultTimeoutDuration: 500ms
  urls: [{url: {prefix: /}, timeoutDuration: 2s}]
- {name: proxy, kind: Proxy, mainPool: {servers: [{url: "http://a:1"}]}}
"#,
            r#"
name: p
kind: Pipeline
flow:
- filter: limiter
  jumpIf: {rateLimited: END}
- filter: auth
  jumpIf: {invalid: proxy}
- filter: proxy
filters:
- {name: limiter, kind: RateLimiter}
- {name: auth, kind: Validator}
- name: proxy
  kind: Proxy
  pools:
  - servers: [{url: "http://a:1"}]
    failureCodes: [500, 503]
    circuitBreakerPolicy: count
    retryPolicy: again
    timeout: 2s
resilience:
- {name: count, slidingWindowSize: 10, kind: CircuitBreaker}
- {name: again, maxAttempts: 2, kind: Retry}
"#,
            &[
                "kind: HTTPPipeline is the v1 name: read as Pipeline and stored so",
                "filters[2]: CircuitBreaker is no filter any more: its policies are read as resilience, and count as circuitBreakerPolicy of every pool; v1 had it per URL, use one pool per URL with a filter for that",
                "filters[3]: Retryer is no filter any more: its policies are read as resilience, and again as retryPolicy of every pool",
                "filters[4]: TimeLimiter is no filter any more: read as timeout \"2s\" of every pool and stored so",
                "filters[5].mainPool: the v1 name: read as an entry of pools and stored so",
            ],
        );
    }

    #[test]
    fn documents_of_today_are_left_alone() {
        for yaml in [
            "name: a\nkind: HTTPServer\nport: 1",
            "name: p\nkind: Pipeline\nfilters: [{name: x, kind: Proxy, pools: []}]",
            "[1]",
        ] {
            assert_eq!(translate_v1(&parse_document(yaml).unwrap()), None);
        }
    }
}
