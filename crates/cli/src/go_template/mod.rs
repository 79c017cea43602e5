//! Go templates for `--format`: the part of Go's `text/template` that Docker's users write.
//!
//! Fields, pipelines, parentheses, variables, `if`, `range`, `with`, `break`, `continue`, comments
//! and trim markers, and the functions of [`functions`]. Templates that include others (`define`,
//! `template`, `block`) are refused. A template is the caller's own, but its data come from images
//! and guests: text, nesting, steps and output are bounded.
//!
//! Source: Go's text/template documentation, and docker/cli `templates.go`.

mod eval;
mod functions;
mod lexer;
mod parser;
mod print;
mod value;

use std::fmt;

use serde_json::Value;

use self::parser::Node;

/// Longest template, in bytes.
const MAX_TEMPLATE_BYTES: usize = 64 << 10;

/// Longest output, and longest text in between, in bytes.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// A template that can be rendered.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be used, or not with these data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// It is no template.
    Syntax(String),
    /// The data have no such field.
    NoField(String),
    /// A function was called with what it does not take, or a bound was passed.
    Use(String),
}

type Result<T> = std::result::Result<T, TemplateError>;

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_TEMPLATE_BYTES {
            let what = format!("it is longer than {MAX_TEMPLATE_BYTES} bytes");
            return Err(TemplateError::Syntax(what));
        }
        let nodes = parser::parse(lexer::lex(text)?)?;
        Ok(Self { nodes })
    }

    /// Renders `data`. `labels` answers the method `Label` of the data.
    ///
    /// # Errors
    /// [`TemplateError::NoField`], [`TemplateError::Use`].
    pub(crate) fn render(&self, data: &Value, labels: Option<&Value>) -> Result<String> {
        eval::render(&self.nodes, data, labels)
    }

    /// The first field of each action that is outside of a `range` and a `with`, for a header.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.nodes.iter().filter_map(Node::first_field).collect()
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(what) => write!(f, "The template cannot be read: {what}"),
            Self::NoField(name) => write!(f, "There is no field `{name}`"),
            Self::Use(what) => write!(f, "The template cannot be used: {what}"),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> Value {
        json!({
            "ID": "abc", "Name": "web", "Size": 12, "Ratio": 1.5, "Up": true, "None": null,
            "Env": ["A=1", "B=2"], "Labels": {"of": "test", "x.y": "dotted"},
            "State": {"Status": "running", "ExitCode": 0},
            "Mounts": [{"Source": "/a", "Target": "/b"}, {"Source": "/c", "Target": "/d"}],
        })
    }

    fn rendered(text: &str) -> String {
        let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let labels = data()["Labels"].clone();
        let rendered = template.render(&data(), Some(&labels));
        rendered.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn failed(text: &str) -> TemplateError {
        match Template::parse(text) {
            Ok(template) => template.render(&data(), None).unwrap_err(),
            Err(error) => error,
        }
    }

    #[test]
    fn the_common_forms_give_what_go_gives() {
        for (text, expected) in [
            ("plain", "plain"),
            ("{{.ID}}: {{ .State.Status }}", "abc: running"),
            ("{{json .State}}", r#"{"ExitCode":0,"Status":"running"}"#),
            ("{{.State | json}}", r#"{"ExitCode":0,"Status":"running"}"#),
            ("{{range .Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
            (
                "{{range $i, $e := .Env}}{{if $i}}, {{end}}{{$e}}{{end}}",
                "A=1, B=2",
            ),
            (
                "{{range .Mounts}}{{.Source}}:{{.Target}};{{end}}",
                "/a:/b;/c:/d;",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
                "of=test x.y=dotted ",
            ),
            ("{{range .None}}x{{else}}empty{{end}}", "empty"),
            (r#"{{index .Labels "x.y"}}"#, "dotted"),
            (r#"{{index .Labels "nope"}}|"#, "|"),
            ("{{index .Env 1}}", "B=2"),
            (r#"{{(index .Mounts 0).Source}}"#, "/a"),
            (
                r#"{{if eq .State.Status "running"}}yes{{else}}no{{end}}"#,
                "yes",
            ),
            (
                "{{if not .Up}}a{{else if gt .Size 5}}b{{else}}c{{end}}",
                "b",
            ),
            ("{{with .State}}{{.ExitCode}}{{$.ID}}{{end}}", "0abc"),
            ("{{len .Env}} {{len .ID}}", "2 3"),
            (r#"{{join .Env ","}}"#, "A=1,B=2"),
            (
                r#"{{.Name | upper | printf "%-5s|%q" .ID}}"#,
                "abc  |\"WEB\"",
            ),
            (
                r#"{{printf "%s %d %v %5.1f%% %05d" .Name .Size .Up .Ratio .Size}}"#,
                "web 12 true   1.5% 00012",
            ),
            (r#"{{println .Name .Size}}"#, "web 12\n"),
            (r#"{{print .Name "x" .Size 3}}"#, "webx12 3"),
            (
                "{{.Env}} {{.Labels}} {{.None}}",
                "[A=1 B=2] map[of:test x.y:dotted] <no value>",
            ),
            ("a {{- /* gone */ -}} b", "ab"),
            ("a\n{{- .Name -}}\nb", "awebb"),
            ("{{$x := .Name}}{{$x}}{{$x = .ID}}{{$x}}", "webabc"),
            (
                r#"{{range split "a,b,c" ","}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}"#,
                "ac",
            ),
            (r#"{{range .Env}}{{.}}{{break}}{{end}}"#, "A=1"),
            (r#"{{.Label "of"}}"#, "test"),
            ("{{and .Up .Name}} {{or .None .Size}}", "web 12"),
            (
                r#"{{slice .Name 1 2}} {{truncate .Name 2}} {{pad .ID 1 2}}|"#,
                "e we  abc  |",
            ),
            ("{{`raw`}} {{'a'}} {{0x10}} {{true}}", "raw 97 16 true"),
            (r#"{{"}}"}}"#, "}}"),
            (
                r#"{{ne 1 2 | and true}} {{le 1 2}} {{ge "b" "a"}} {{lt 1.5 2}}"#,
                "true true true true",
            ),
        ] {
            assert_eq!(rendered(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_syntax_error() {
        for text in [
            "{{",
            "{{.ID",
            "{{end}}",
            "{{if .ID}}",
            "{{else}}",
            "{{if}}x{{end}}",
            "{{range .Env}}{{else}}{{else}}{{end}}",
            "{{\"open}}",
            "{{.ID | }}",
            "{{(.ID}}",
            "{{break}}",
            "{{template \"x\"}}",
            "{{define \"x\"}}{{end}}",
            "{{nope .ID}}",
            "{{.ID ^}}",
            "{{$x}}",
        ] {
            let error = failed(text);
            assert!(
                matches!(error, TemplateError::Syntax(_)),
                "{text}: {error:?}"
            );
        }
        let deep = format!("{}.ID{}", "(".repeat(5000), ")".repeat(5000));
        assert!(matches!(
            failed(&format!("{{{{{deep}}}}}")),
            TemplateError::Syntax(_)
        ));
        let deep = format!("{}{}", "{{if 1}}".repeat(5000), "{{end}}".repeat(5000));
        assert!(matches!(failed(&deep), TemplateError::Syntax(_)));
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        assert_eq!(
            failed("{{.Nope}}"),
            TemplateError::NoField("Nope".to_owned())
        );
        assert_eq!(
            failed("{{.State.Nope}}"),
            TemplateError::NoField("State.Nope".to_owned())
        );
        assert!(matches!(failed("{{.ID.X}}"), TemplateError::NoField(_)));
        // A label is no field: a sandbox may lack any.
        assert_eq!(rendered("{{.Labels.nope}}"), "<no value>");
    }

    #[test]
    fn functions_say_what_they_do_not_take() {
        for text in [
            "{{index .Env 7}}",
            "{{index .ID 0 0}}",
            "{{len .Size}}",
            "{{join .ID}}",
            "{{eq .ID 1}}",
            "{{range .Size}}{{end}}",
            "{{.ID .Name}}",
            "{{slice .Name 5}}",
            "{{printf 1}}",
        ] {
            let error = failed(text);
            assert!(matches!(error, TemplateError::Use(_)), "{text}: {error:?}");
        }
    }

    #[test]
    fn work_and_output_are_bounded() {
        let nested = "{{range .}}{{range $}}{{range $}}{{range $}}{{range $}}x\
                      {{end}}{{end}}{{end}}{{end}}{{end}}";
        let many = Value::from(vec![0; 1000]);
        let error = Template::parse(nested)
            .unwrap()
            .render(&many, None)
            .unwrap_err();
        assert!(matches!(error, TemplateError::Use(_)), "{error:?}");
        let long = r#"{{$x := "0123456789"}}{{range .}}{{$x = print $x $x}}{{end}}{{$x}}"#;
        let error = Template::parse(long)
            .unwrap()
            .render(&many, None)
            .unwrap_err();
        assert!(matches!(error, TemplateError::Use(_)), "{error:?}");
        let wide = r#"{{printf "%999999999d" 1}}"#;
        assert!(matches!(failed(wide), TemplateError::Use(_)));
    }

    #[test]
    fn a_header_is_made_of_the_fields() {
        let template =
            Template::parse("{{.ID}}\t{{json .Name}}\t{{upper .State.Status}} x").unwrap();
        assert_eq!(template.fields(), ["ID", "Name", "Status"]);
    }
}
