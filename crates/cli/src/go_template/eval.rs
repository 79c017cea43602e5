//! From a tree and data to text. Steps and output are bounded.

use serde_json::Value;

use super::{
    MAX_OUTPUT_BYTES, Result, TemplateError, functions,
    parser::{Base, Branch, Command, Node, Operand, Pipeline},
    print,
    value::{is_true, kind},
};

/// Most values that one rendering works out.
const MAX_STEPS: u32 = 1_000_000;

/// Fields whose value has keys that nobody knows beforehand: a missing one is no error.
const MAPS: [&str; 4] = ["Labels", "labels", "Annotations", "annotations"];

/// Renders.
pub(super) fn render(nodes: &[Node], data: &Value, labels: Option<&Value>) -> Result<String> {
    let mut evaluation = Evaluation {
        variables: vec![(String::new(), data.clone())],
        labels,
        steps: 0,
        output: String::new(),
    };
    evaluation.run(nodes, data)?;
    Ok(evaluation.output)
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Evaluation<'a> {
    variables: Vec<(String, Value)>,
    labels: Option<&'a Value>,
    steps: u32,
    output: String,
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(TemplateError::Use(what.into()))
}

impl Evaluation<'_> {
    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => self.write(text)?,
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match pipeline.variables.is_empty() {
                        true => self.write(&print::text(&value))?,
                        false => Flow::On,
                    }
                }
                Node::If(branch) => self.branch(branch, dot, |_| dot.clone())?,
                Node::With(branch) => self.branch(branch, dot, Value::clone)?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        match self.steps {
            0..=MAX_STEPS => Ok(()),
            _ => wrong(format!("it takes more than {MAX_STEPS} steps")),
        }
    }

    fn write(&mut self, text: &str) -> Result<Flow> {
        if self.output.len() + text.len() > MAX_OUTPUT_BYTES {
            return wrong(format!("it prints more than {MAX_OUTPUT_BYTES} bytes"));
        }
        self.output.push_str(text);
        Ok(Flow::On)
    }

    fn branch(
        &mut self,
        branch: &Branch,
        dot: &Value,
        inner: impl FnOnce(&Value) -> Value,
    ) -> Result<Flow> {
        let known = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let flow = match is_true(&value) {
            true => self.run(&branch.body, &inner(&value)),
            false => self.run(&branch.otherwise, dot),
        };
        self.variables.truncate(known);
        flow
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow> {
        let known = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::Array(items) => (0_u64..).map(Value::from).zip(items).collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| (Value::String(key), value))
                .collect(),
            Value::Null => Vec::new(),
            other => return wrong(format!("`range` over {}", kind(&other))),
        };
        if items.is_empty() {
            let flow = self.run(&branch.otherwise, dot);
            self.variables.truncate(known);
            return flow;
        }
        for (key, item) in items {
            match branch.pipeline.variables.as_slice() {
                [one] => self.set(one, item.clone()),
                [one, two] => {
                    self.set(one, key);
                    self.set(two, item.clone());
                }
                _ => {}
            }
            let inner = self.variables.len();
            match self.run(&branch.body, &item)? {
                Flow::Break => break,
                Flow::On | Flow::Continue => {}
            }
            self.variables.truncate(inner);
        }
        self.variables.truncate(known);
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(slot) = self.variables.iter_mut().rfind(|(known, _)| known == name) {
            slot.1 = value;
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        let value = last.unwrap_or(Value::Null);
        for name in &pipeline.variables {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
            } else {
                self.set(name, value.clone());
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, last: Option<Value>, dot: &Value) -> Result<Value> {
        self.step()?;
        if let Base::Function(name) = &command.first.base {
            // These two work out no more than they need.
            if let "and" | "or" = name.as_str() {
                return self.shortcut(name == "or", &command.arguments, last, dot);
            }
            let mut arguments = Vec::new();
            for argument in &command.arguments {
                arguments.push(self.operand(argument, dot)?);
            }
            arguments.extend(last);
            return functions::call(name, &arguments);
        }
        if command.arguments.is_empty() && last.is_none() {
            return self.operand(&command.first, dot);
        }
        // The one method that Docker's data have.
        match (
            command.first.fields.as_slice(),
            command.arguments.as_slice(),
            self.labels,
        ) {
            ([name], [label], Some(labels)) if name == "Label" && last.is_none() => {
                let label = self.operand(label, dot)?;
                functions::call("index", &[labels.clone(), label])
            }
            _ => wrong("a value that is no function has arguments"),
        }
    }

    fn shortcut(
        &mut self,
        until: bool,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value> {
        let mut value = None;
        for operand in operands {
            let found = self.operand(operand, dot)?;
            if is_true(&found) == until {
                return Ok(found);
            }
            value = Some(found);
        }
        match last.or(value) {
            Some(value) => Ok(value),
            None => wrong("`and` and `or` need an argument"),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        self.step()?;
        match &operand.base {
            Base::Dot => field(dot, &operand.fields),
            Base::Variable(name) => {
                let found = self.variables.iter().rfind(|(known, _)| known == name);
                let value = found.map_or(&Value::Null, |(_, value)| value);
                field(value, &operand.fields)
            }
            Base::Literal(value) => field(value, &operand.fields),
            Base::Function(name) => field(&functions::call(name, &[])?, &operand.fields),
            Base::Pipeline(pipeline) => {
                let known = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                self.variables.truncate(known);
                field(&value, &operand.fields)
            }
        }
    }
}

/// The field of a field of a value.
fn field(value: &Value, names: &[String]) -> Result<Value> {
    let mut found = value;
    let mut parent = "";
    for name in names {
        found = match found.get(name.as_str()) {
            Some(inner) => inner,
            None if MAPS.contains(&parent) => &Value::Null,
            None => return Err(TemplateError::NoField(names.join("."))),
        };
        parent = name;
    }
    Ok(found.clone())
}
