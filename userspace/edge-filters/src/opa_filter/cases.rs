//! OPA's own test cases, all of them: a policy that was written for OPA decides the same here, but for what is listed here.
//!
//! They come with OPA's module of Go, once, into `target/tools`. Without Go the test says so and shows nothing.

use super::{LENGTHS, STEPS, builtins, calls, grown};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const MODULE: &str = "github.com/open-policy-agent/opa@v1.22.4";

/// Folders of which not every case passes, with the number of those that do not and the reason.
const PARTIAL: &[(&str, usize, &str)] = &[
    // What is refused when a document comes in, see `calls`.
    ("cryptoparsersaprivatekeys", 3, ABSENT),
    ("cryptox509parsekeypair", 2, ABSENT),
    ("cryptox509parsersaprivatekey", 1, ABSENT),
    ("globsmatch", 5, ABSENT),
    ("graphql", 118, ABSENT),
    ("jsonpatch", 7, ABSENT),
    ("jsonschema", 8, ABSENT),
    ("netlookupipaddr", 3, ABSENT),
    ("providers-aws", 12, ABSENT),
    ("regometadatachain", 3, ABSENT),
    ("regometadatarule", 2, ABSENT),
    ("regoparsemodule", 1, ABSENT),
    ("rendertemplate", 5, ABSENT),
    ("uribuiltins", 22, ABSENT),
    // YAML, and a number of more digits than a request may make us read.
    ("jsonbuiltins", 5, ABSENT),
    // Syntax that came with OPA 1.2 and later.
    ("keywordrefs", 70, SYNTAX),
    ("logic_operators", 146, SYNTAX),
    ("negation", 9, SYNTAX),
    ("rego_v2_import", 5, SYNTAX),
    ("stringinterpolation", 57, SYNTAX),
    // What the engine makes of it.
    ("aggregates", 1, ENGINE),
    ("baseandvirtualdocs", 1, ENGINE),
    ("comparisonexpr", 1, ENGINE),
    ("numbersrangestep", 1, ENGINE),
    ("refheads", 1, ENGINE),
    ("sprintf", 2, ENGINE),
    ("strings", 1, ENGINE),
    ("units", 2, ENGINE),
    ("uuid", 1, ENGINE),
    ("walkbuiltin", 1, ENGINE),
    // Functions in the place of others, for tests of policies.
    ("withkeyword", 7, ENGINE),
    ("time", 1, "a function of OPA's tests alone"),
    ("jwtdecodeverify", 1, "a key that is for encryption signs nothing here"),
    ("jwtverifyrsa", 3, "of a key of another kind it is not known whether it signed; one that is none signed nothing"),
    ("jwtverifyhs512", 1, "of a signature that is no base64url nothing is known, and not that it is wrong"),
];

const ABSENT: &str = "such functions are refused";
const SYNTAX: &str = "the engine does not read it";
const ENGINE: &str = "the engine decides otherwise";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Case {
    note: String,
    query: String,
    modules: Vec<String>,
    data: Option<Json>,
    input: Option<Json>,
    input_term: Option<String>,
    want_result: Option<Vec<Json>>,
    want_defined: Option<bool>,
    want_error: Option<String>,
    want_error_code: Option<String>,
    sort_bindings: bool,
    strict_error: bool,
    env: Option<Json>,
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[test]
fn opas_own_cases() {
    let Some(cases) = fetched() else {
        println!("skipped: OPA's cases are not there, and there is no go to fetch them with");
        return;
    };
    let mut folders: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for (version, is_old) in [("v0", true), ("v1", false)] {
        for file in files(&cases.join(version)) {
            let folder = file.parent().and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
            let (passed, failed) = folders.entry(format!("{version}/{folder}")).or_default();
            let text = fs::read_to_string(&file).unwrap();
            let read: Result<Cases, _> = serde_saphyr::from_str(&text);
            let Ok(read) = read.map_err(|why| failed.push(format!("{}: {why}", file.display()))) else { continue };
            for case in read.cases.iter().filter(|case| case.env.is_none()) {
                let done = catch_unwind(AssertUnwindSafe(|| check(case, is_old)));
                match done.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                    Ok(()) => *passed += 1,
                    Err(why) => failed.push(format!("{}: {why}", case.note)),
                }
            }
        }
    }
    let passed: usize = folders.values().map(|(passed, _)| passed).sum();
    let failed: usize = folders.values().map(|(_, failed)| failed.len()).sum();
    println!("{passed} of {} cases of OPA pass", passed + failed);
    let mut wrong = Vec::new();
    for (folder, (passed, failed)) in &folders {
        let known = PARTIAL.iter().find(|(name, ..)| folder.ends_with(&format!("/{name}")));
        if !failed.is_empty() {
            let why = known.map_or("nobody knows why", |(.., why)| why);
            println!("{folder}: {passed} pass, {} do not: {why}", failed.len());
            failed.iter().for_each(|why| println!("    {}", why.lines().next().unwrap_or_default()));
        }
        if failed.len() > known.map_or(0, |(_, failed, _)| *failed) {
            wrong.push(folder);
        }
    }
    assert!(wrong.is_empty(), "in {wrong:?} more fail than are known to");
}

fn check(case: &Case, is_old: bool) -> Result<(), String> {
    let found = results(case, is_old);
    let wants_error = case.want_error.is_some() || case.want_error_code.is_some();
    match (found, &case.want_result) {
        (Err(_), _) if wants_error => Ok(()),
        // Where OPA is not told to be strict it goes on without the expression, and so does this.
        (Ok(found), _) if wants_error && case.strict_error && found.is_empty() => Ok(()),
        (Ok(found), _) if wants_error => Err(format!("no error but {found:?}")),
        (Err(why), _) => Err(why),
        (Ok(found), Some(wanted)) => {
            let wanted: Vec<Value> = wanted.iter().map(value).collect();
            let (found, wanted) = (in_order(found, case.sort_bindings), in_order(wanted, case.sort_bindings));
            if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
        }
        (Ok(found), None) => match case.want_defined {
            Some(wanted) if wanted == found.is_empty() => Err(format!("{} results", found.len())),
            _ => Ok(()),
        },
    }
}

fn results(case: &Case, is_old: bool) -> Result<Vec<Value>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string().replace('\n', " ");
    let mut engine = Engine::new();
    engine.set_rego_v0(is_old);
    engine.set_gather_prints(true);
    engine.set_strict_builtin_errors(false);
    let limit = Duration::from_secs(5);
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: STEPS });
    builtins::add(&mut engine).map_err(|error| error.to_string())?;
    engine.set_policy_length_config(LENGTHS);
    let written = |text: &str| calls::outputs_in_front(text, builtins::arguments).into_owned();
    if let Some(data) = &case.data {
        engine.add_data(value(data)).map_err(|error| text(&error))?;
    }
    if let Some(input) = &case.input {
        engine.set_input(value(input));
    }
    if let Some(term) = &case.input_term {
        let found = engine.eval_query(term.clone(), false).map_err(|error| text(&error))?;
        let last = found.result.last().and_then(|result| result.expressions.last());
        engine.set_input(last.ok_or("no input")?.value.clone());
    }
    for (place, module) in case.modules.iter().enumerate() {
        engine.add_policy(format!("{place}.rego"), written(module)).map_err(|error| text(&error))?;
    }
    grown::begin();
    let found = engine.eval_query(written(&case.query), false).map_err(|error| text(&error))?;
    let found = found.result.into_iter().filter_map(|result| {
        let is_bare = result.bindings.as_object().is_ok_and(|bindings| bindings.is_empty());
        let found = if is_bare { result.expressions.last()?.value.clone() } else { result.bindings };
        // Sets become lists.
        Value::from_json_str(&found.to_string()).ok()
    });
    Ok(found.filter(|found| *found != Value::Undefined).collect())
}

/// Results come in any order; what is bound too, where the case says so.
fn in_order(mut results: Vec<Value>, sort_bindings: bool) -> Vec<Value> {
    for result in results.iter_mut().filter(|_| sort_bindings) {
        if let Ok(bindings) = result.as_object_mut() {
            for (_, bound) in bindings.iter_mut() {
                if let Value::Array(_) = bound {
                    bound.as_array_mut().unwrap().sort();
                }
            }
        }
    }
    results.sort();
    results
}

fn value(json: &Json) -> Value {
    Value::from_json_str(&json.to_string()).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        |folder: &Path| -> Vec<PathBuf> { fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect() };
    let mut files: Vec<PathBuf> =
        entries(folder).iter().filter(|path| path.is_dir()).flat_map(|path| entries(path)).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    files.sort();
    files
}

/// The folder that the cases are in.
fn fetched() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?.join("target/tools");
    let there = tools.join("opa-cases");
    fs::create_dir_all(&tools).ok()?;
    // Another test may want them too.
    let lock = File::create(tools.join("opa-cases.lock")).ok()?;
    lock.lock().ok()?;
    if !there.is_dir() {
        let part = tools.join("opa-cases.part");
        let mut go = Command::new("go");
        go.args(["mod", "download", "-modcacherw", "-json", MODULE]).env("GOMODCACHE", &part).current_dir(&tools);
        let done = go.stdin(Stdio::null()).output().ok()?;
        let told: Json = serde_json::from_slice(&done.stdout).ok()?;
        fs::rename(Path::new(told["Dir"].as_str()?).join("v1/test/cases/testdata"), &there).ok()?;
        let _ = fs::remove_dir_all(part);
    }
    Some(there)
}
