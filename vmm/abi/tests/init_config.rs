//! The configuration format of init, read and written.

use abi::init_config::{Directive, Error, ErrorKind, directives};
use proptest::prelude::*;

fn read(text: &str) -> Result<Vec<Directive<'_>>, Error<'_>> {
    directives(text).collect()
}

#[test]
fn every_directive() {
    let text = "# a comment\n\n  \nhostname lab\nmodule kvm-amd nested=1  avic=0\nmodule irqbypass\nenv A=b c=d \n\
                env EMPTY=\ncwd /srv\nexec sh\narg -c\narg\narg  two spaces \n+ # second\n+\nports always";
    let expected = [
        Directive::Hostname("lab"),
        Directive::Module { name: "kvm-amd", parameters: "nested=1  avic=0" },
        Directive::Module { name: "irqbypass", parameters: "" },
        Directive::Env { name: "A", value: "b c=d " },
        Directive::Env { name: "EMPTY", value: "" },
        Directive::Cwd("/srv"),
        Directive::Exec("sh"),
        Directive::Arg("-c"),
        Directive::Arg(""),
        Directive::Arg(" two spaces "),
        Directive::ArgLine("# second"),
        Directive::ArgLine(""),
        Directive::PortsAlways,
    ];
    assert_eq!(read(text), Ok(expected.to_vec()));
}

#[test]
fn every_error_names_its_line() {
    let cases = [
        ("\nhotsname x", 2, "unknown directive `hotsname`"),
        ("hostname", 1, "`hostname` takes"),
        ("hostname two words", 1, "`hostname` takes"),
        ("hostname a\nhostname b", 2, "`hostname` is there twice"),
        ("module", 1, "`module` takes"),
        ("module ../../evil", 1, "`module` takes"),
        ("env A", 1, "`env` takes NAME=VALUE"),
        ("env =b", 1, "`env` takes NAME=VALUE"),
        ("cwd srv", 1, "`cwd` takes an absolute path"),
        ("exec ", 1, "`exec` takes"),
        ("exec a\nexec b", 2, "`exec` is there twice"),
        ("arg x", 1, "`arg` must follow `exec`"),
        ("exec a\n+ x", 2, "`+` must follow `arg`"),
        ("exec a\narg b\nenv A=b\n+ x", 4, "`+` must follow `arg`"),
        ("ports sometimes", 1, "`ports` takes the word `always`"),
        ("exec a\0b", 1, "has a NUL byte"),
    ];
    for (text, line, message) in cases {
        let error = read(text).expect_err(text);
        assert_eq!(error.line, line, "{text:?}");
        assert!(error.to_string().contains(message), "{text:?} gave {error}");
    }
}

#[test]
fn reading_goes_on_after_an_error() {
    let items: Vec<_> = directives("nonsense\nexec a").collect();
    assert_eq!(
        items,
        [Err(Error { line: 1, kind: ErrorKind::Unknown("nonsense") }), Ok(Directive::Exec("a"))]
    );
}

/// What a configuration is about, in the shape that a reader keeps.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Config {
    modules: Vec<(String, String)>,
    env: Vec<(String, String)>,
    command: Vec<String>,
}

impl Config {
    fn write(&self) -> String {
        let mut text = String::new();
        for (name, parameters) in &self.modules {
            text += &Directive::Module { name, parameters }.to_string();
        }
        for (name, value) in &self.env {
            text += &Directive::Env { name, value }.to_string();
        }
        if let [exec, args @ ..] = &self.command[..] {
            text += &Directive::Exec(exec).to_string();
            for arg in args {
                text += &Directive::Arg(arg).to_string();
            }
        }
        text
    }

    fn read(text: &str) -> Self {
        let mut config = Self::default();
        for directive in directives(text) {
            match directive.expect("what was written is well formed") {
                Directive::Module { name, parameters } => {
                    config.modules.push((name.into(), parameters.into()));
                }
                Directive::Env { name, value } => config.env.push((name.into(), value.into())),
                Directive::Exec(path) => config.command.push(path.into()),
                Directive::Arg(text) => config.command.push(text.into()),
                Directive::ArgLine(text) => {
                    let last = config.command.last_mut().expect("an argument");
                    last.push('\n');
                    last.push_str(text);
                }
                other => panic!("{other:?} was not written"),
            }
        }
        config
    }
}

fn config() -> impl Strategy<Value = Config> {
    let modules = prop::collection::vec(("[a-z0-9_-]{1,12}", "([a-z]=[!-~]{1,4}( [a-z]=[0-9])?)?"), 0..4);
    let env = prop::collection::vec(("[A-Z_]{1,8}", "[^\0\n]{0,20}"), 0..4);
    let command =
        ("[a-z/]{1,12}", prop::collection::vec("[^\0]{0,30}", 0..6)).prop_map(|(exec, mut args)| {
            args.insert(0, exec);
            args
        });
    (modules, env, command).prop_map(|(modules, env, command)| Config { modules, env, command })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in config()) {
        prop_assert_eq!(Config::read(&config.write()), config);
    }

    #[test]
    fn any_text_is_read_to_its_end(text in "\\PC{0,40}(\n((hostname|module|env|cwd|exec|arg|\\+|ports)[ =]?)?\\PC{0,12}){0,8}") {
        let lines = text.split('\n').count();
        for item in directives(&text) {
            if let Err(error) = item {
                prop_assert!((1..=lines).contains(&error.line));
            }
        }
        prop_assert!(directives(&text).count() <= lines);
    }
}
