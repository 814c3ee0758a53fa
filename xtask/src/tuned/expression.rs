//! Conditions in Kconfig files (Linux, `Documentation/kbuild/kconfig-language.rst`, "Menu dependencies").

/// Whether `text` holds, where `value` gives options' values. A module counts as on. What is no condition holds not.
pub(super) fn holds<'a>(text: &str, value: &dyn Fn(&str) -> &'a str) -> bool {
    let mut parser = Parser { rest: text, value };
    let result = parser.any();
    result && parser.rest.trim_start().is_empty()
}

struct Parser<'t, 'v, 'a> {
    rest: &'t str,
    value: &'v dyn Fn(&str) -> &'a str,
}

impl<'t> Parser<'t, '_, '_> {
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn any(&mut self) -> bool {
        let mut result = self.all();
        while self.take("||") {
            // Both sides are always read.
            result |= self.all();
        }
        result
    }

    fn all(&mut self) -> bool {
        let mut result = self.one();
        while self.take("&&") {
            result &= self.one();
        }
        result
    }

    /// A run of `!`, then a group or a comparison or an option. No recursion for `!`; groups are as deep as the kernel's
    /// own files have them.
    fn one(&mut self) -> bool {
        let mut wanted = true;
        while !self.rest.trim_start().starts_with("!=") && self.take("!") {
            wanted = !wanted;
        }
        let result = if self.take("(") {
            let inner = self.any();
            self.take(")") && inner
        } else {
            self.comparison()
        };
        result == wanted
    }

    fn comparison(&mut self) -> bool {
        let left = self.symbol();
        for (operator, equal) in [("!=", false), ("=", true)] {
            if self.take(operator) {
                return (left == self.symbol()) == equal;
            }
        }
        matches!(left.as_str(), "y" | "m")
    }

    /// The value of an option, or a constant, without quotes.
    fn symbol(&mut self) -> String {
        let text: &'t str = self.rest.trim_start();
        if let Some(quoted) = text.strip_prefix('"')
            && let Some((constant, rest)) = quoted.split_once('"')
        {
            self.rest = rest;
            return constant.to_owned();
        }
        let end =
            text.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c))).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        self.rest = rest;
        let constant = matches!(name, "y" | "m" | "n") || name.starts_with(|c: char| c.is_ascii_digit());
        if constant { name.to_owned() } else { (self.value)(name).trim_matches('"').to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_all_forms() {
        let value = |option: &str| match option {
            "ON" | "X86_64" => "y",
            "MOD" => "m",
            "TEXT" => "\"abc\"",
            "NR" => "64",
            _ => "n",
        };
        for yes in [
            "ON",
            "MOD",
            "!OFF",
            "!!ON",
            "ON && MOD",
            "OFF || ON",
            "OFF && OFF || ON",
            "!(OFF && ON) && X86_64",
            "(ON)",
            "OFF=n",
            "OFF != y",
            "MOD=m",
            "NR = 64",
            "TEXT = \"abc\"",
            "TEXT!=\"\"",
            " ON&&!OFF ",
        ] {
            assert!(holds(yes, &value), "{yes}");
        }
        for no in [
            "OFF",
            "!ON",
            "ON && OFF",
            "OFF || !MOD",
            "ON || OFF)",
            "(ON",
            "ON=n",
            "NR=32",
            "",
            "ON ON",
            "$(x)",
        ] {
            assert!(!holds(no, &value), "{no}");
        }
    }
}
