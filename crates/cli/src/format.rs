//! `--format`: tables, JSON and Go templates, of lists and of `inspect`.

use cofferdam::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::{
    go_template::{Template, TemplateError},
    output,
};

/// How a list is printed.
#[derive(Debug)]
pub(crate) enum Format {
    /// The usual table.
    Table,
    /// JSON.
    Json,
    /// A line for each row, with a header or without.
    Rows { template: Template, header: bool },
}

/// One row of a list as templates see it.
#[derive(Debug)]
pub(crate) struct Row {
    /// Docker's fields.
    pub(crate) fields: Value,
    /// What the method `Label` looks up.
    pub(crate) labels: Option<Value>,
}

impl Format {
    /// Reads `--format` and `--json`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for what is no form.
    pub(crate) fn of_list(format: Option<&str>, json: bool) -> Result<Self> {
        let (text, header) = match format {
            None | Some("" | "table") => {
                return Ok(if json { Self::Json } else { Self::Table });
            }
            Some("json") => return Ok(Self::Json),
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => (columns, true),
                None => (text, false),
            },
        };
        if !text.contains("{{") {
            let what = format!("`--format {text}` is neither `table`, `json` nor a template");
            let hint = "A template is such as `{{.ID}}: {{.Image}}`";
            return Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint));
        }
        // As Docker does: a shell's single quotes leave these as they are.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::parse(&text).map_err(|error| refused(&error, &[]))?;
        Ok(Self::Rows { template, header })
    }
}

/// Prints rows by a template. `titles` has the header of a field where it is not the field's name
/// in capitals.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] when the rows have no such field.
pub(crate) fn print_rows(
    template: &Template,
    header: bool,
    titles: &[(&str, &str)],
    rows: &[Row],
) -> Result<()> {
    let mut lines = Vec::new();
    for Row { fields, labels } in rows {
        let line = template.render(fields, labels.as_ref());
        lines.push(line.map_err(|error| refused(&error, &[fields]))?);
    }
    if header {
        let title = |name: &&str| {
            let known = titles.iter().find(|(field, _)| field == name);
            known.map_or_else(|| name.to_uppercase(), |(_, title)| (*title).to_owned())
        };
        let header: Vec<String> = template.fields().iter().map(title).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let cells = |line: &String| line.split('\t').map(output::printable).collect();
        let rows: Vec<Vec<String>> = lines.iter().map(cells).collect();
        output::table(&header, &rows);
        return Ok(());
    }
    // A closed pipe ends the list.
    let _ = lines.iter().all(output::line);
    Ok(())
}

/// Renders one object: by the fields that it has here, else by those that it has in Docker.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] when neither has such a field.
pub(crate) fn render(template: &Template, ours: &Value, dockers: &Value) -> Result<String> {
    match template.render(ours, None) {
        Err(TemplateError::NoField(_)) => template
            .render(dockers, None)
            .map_err(|error| refused(&error, &[ours, dockers])),
        other => other.map_err(|error| refused(&error, &[])),
    }
}

/// The error of a template, with the fields that `objects` have.
pub(crate) fn refused(error: &TemplateError, objects: &[&Value]) -> Error {
    let names = objects.iter().filter_map(|object| object.as_object());
    let mut names: Vec<&str> = names.flatten().map(|(name, _)| name.as_str()).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let refused = Error::new(ErrorKind::InvalidSpec, error.to_string());
    match (error, names.is_empty()) {
        (TemplateError::NoField(_), false) => {
            refused.hint(format!("There are {}", names.join(", ")))
        }
        _ => refused.hint("Templates are Go's: fields, if, range, with, json, index and the like"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_are_dockers() {
        let form = |format, json| Format::of_list(format, json).unwrap();
        assert!(matches!(form(None, false), Format::Table));
        assert!(matches!(form(Some("table"), false), Format::Table));
        assert!(matches!(form(None, true), Format::Json));
        assert!(matches!(form(Some("json"), false), Format::Json));
        assert!(matches!(
            form(Some("{{.ID}}"), false),
            Format::Rows { header: false, .. }
        ));
        let Format::Rows {
            template,
            header: true,
        } = form(Some("table {{.ID}}\\t{{.X}}"), false)
        else {
            panic!()
        };
        assert_eq!(
            template.render(&json!({"ID": 1, "X": 2}), None).unwrap(),
            "1\t2"
        );
        for bad in ["yaml", "{{.ID", "table x"] {
            let error = Format::of_list(Some(bad), false).unwrap_err();
            assert!(error.hint_text().is_some(), "{bad}: {error}");
        }
    }

    fn error_of(text: &str, of: &Value) -> TemplateError {
        Template::parse(text).unwrap().render(of, None).unwrap_err()
    }

    #[test]
    fn our_fields_come_before_dockers_and_a_missing_one_lists_both() {
        let (ours, dockers) = (json!({"id": "a"}), json!({"Id": "b"}));
        let render = |text| render(&Template::parse(text).unwrap(), &ours, &dockers);
        assert_eq!(render("{{.id}}").unwrap(), "a");
        assert_eq!(render("{{.Id}}").unwrap(), "b");
        assert_eq!(render("{{json .}}").unwrap(), r#"{"id":"a"}"#);
        let error = render("{{.ID}}").unwrap_err();
        assert_eq!(error.hint_text(), Some("There are id, Id"));
        let error = refused(&error_of("{{.No}}", &ours), &[&ours, &ours]);
        assert_eq!(error.hint_text(), Some("There are id"));
    }
}
