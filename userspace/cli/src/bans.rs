//! `bans`: sources that a machine takes nothing from for a while.

use hyper::Method;
use serde_json::Value;

use crate::arguments::{BansWhat, Format};
use crate::documents::word;
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{Server, segment};

/// Asks the machine that answers here.
pub async fn run(server: &Server, what: Option<BansWhat>, format: Format) -> Result<(), String> {
    match what {
        None | Some(BansWhat::List) => {
            let listed = server.get("/bans").await?;
            if format == Format::Default {
                print(&told(&listed))
            } else {
                structured(&listed, format)
            }
            Ok(())
        }
        Some(BansWhat::Lift { sources }) => {
            let mut failed = Vec::new();
            for source in sources {
                match server.send(Method::DELETE, &format!("/bans/{}", segment(&source)), String::new()).await {
                    Ok(_) => succeeded("lift", "ban of", &source),
                    Err(message) => failed.push(format!("lift ban of {source} failed, {message}")),
                }
            }
            if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
        }
    }
}

fn told(listed: &Value) -> String {
    let mut rows = vec![heads(&["SOURCE", "FOR", "BY"])];
    for ban in listed["bans"].as_array().into_iter().flatten() {
        let left = format!("{}s", ban["secondsLeft"]);
        rows.push(vec![word(ban, "source").into(), left, word(ban, "by").into()]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_ban_has_a_line() {
        let ban = json!({"source": "198.51.100.7", "secondsLeft": 599, "by": "shop/limiter logins"});
        let text = told(&json!({"enforcedBy": "listeners", "bans": [ban]}));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["SOURCE", "FOR", "BY"], vec!["198.51.100.7", "599s", "shop/limiter", "logins"]]);
    }
}
