//! Whatever is given as a policy is taken or refused with a reason, within the time that a policy may take.

use serde_json::json;

/// A module of Rego, or what somebody takes for one.
pub fn check(bytes: &[u8]) {
    let Ok(policy) = std::str::from_utf8(bytes) else { return };
    let kind = edge_filters::kind("OPAFilter").expect("it is on the shelf");
    let fields = json!({"policy": policy, "timeout": "5ms"});
    if let Err(problems) = kind.checked(&fields, "filters[0]") {
        assert!(!problems.is_empty());
        let told = base_model::problem::render(&problems);
        assert!(told.contains("policy") && !told.contains("thread '"), "{told}");
    }
}
