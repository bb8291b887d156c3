//! `explain`: what a kind is for, what its fields mean, and how it is written.

use crate::{catalog, examples};

/// Text about a kind or a field; of a whole kind also an example, and of a filter what its module says: results, what it costs.
pub fn explain(query: &str) -> Result<String, String> {
    let mut text = base_model::explain(query, &catalog::explained()).map_err(|problem| problem.to_string())?;
    let kind = base_model::kinds::find(query).map_or(query, |found| found.name);
    let filter = edge_filters::kinds().iter().find(|filter| filter.kind.eq_ignore_ascii_case(kind));
    if let Some(filter) = filter {
        let results = if filter.results.is_empty() { "none".to_owned() } else { filter.results.join(", ") };
        text = format!("{}\n\nResults a jumpIf may name: {results}\n\n{}\n", text.trim_end(), filter.doc.trim());
    } else if let Some(example) = examples::of(kind) {
        text = format!("{}\n\nExample:\n\n{}\n", text.trim_end(), example.trim_end());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_say_their_results_and_show_an_example() {
        let text = explain("Kafka").unwrap();
        assert!(text.contains("jumpIf may name: parseErr, produceErr, queueFull"), "{text}");
        assert!(text.contains("topic") && text.contains("```yaml"), "{text}");
        assert!(!explain("Kafka.topic").unwrap().contains("jumpIf"));
        for filter in edge_filters::kinds() {
            assert!(filter.doc.contains("```yaml"), "{} shows no example", filter.kind);
        }
    }

    #[test]
    fn objects_show_an_example_by_whatever_name() {
        for query in ["HTTPServer", "hs"] {
            let text = explain(query).unwrap();
            assert!(text.contains("\nExample:\n") && text.contains("\nkind: HTTPServer\n"), "{text}");
        }
        assert!(!explain("HTTPServer.port").unwrap().contains("Example"));
        for kind in base_model::kinds::KINDS.iter().filter(|kind| kind.served) {
            assert!(explain(kind.name).unwrap().contains("Example:"), "{}", kind.name);
        }
    }
}
