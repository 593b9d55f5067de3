//! `vmshare vm …`: what is asked for.

use super::{ArgError, Given, only, unknown_command, value_of};

/// What to do about VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmCommand {
    /// List those that live.
    List {
        /// Also those that have ended.
        all: bool,
        /// As JSON.
        json: bool,
    },
    /// Tell everything about one.
    Show {
        /// Which.
        vmid: String,
        /// As JSON.
        json: bool,
    },
    /// End some, at once.
    Stop {
        /// Which.
        vmids: Vec<String>,
    },
}

const COMMANDS: [&str; 3] = ["list", "show", "stop"];

/// Understands what stands behind `vmshare vm`.
pub(super) fn command(words: &[&str], options: &Given) -> Result<VmCommand, ArgError> {
    let given = |name| value_of(options, name).is_some();
    match words {
        ["list"] => {
            only(&["all", "json"], options)?;
            Ok(VmCommand::List { all: given("all"), json: given("json") })
        }
        ["show", vmid] => {
            only(&["json"], options)?;
            Ok(VmCommand::Show { vmid: (*vmid).to_owned(), json: given("json") })
        }
        ["stop", vmids @ ..] if !vmids.is_empty() => {
            only(&[], options)?;
            Ok(VmCommand::Stop { vmids: vmids.iter().map(|vmid| (*vmid).to_owned()).collect() })
        }
        ["list", ..] => Err(ArgError::Usage { usage: "vmshare vm list [--all] [--json]" }),
        ["show", ..] => Err(ArgError::Usage { usage: "vmshare vm show VMID [--json]" }),
        ["stop", ..] => Err(ArgError::Usage { usage: "vmshare vm stop VMID..." }),
        [] => Err(ArgError::Usage { usage: "vmshare vm list|show|stop" }),
        [word, ..] => Err(unknown_command(word, &COMMANDS)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn understand(line: &str) -> Result<VmCommand, String> {
        match parse(line.split_whitespace().map(Into::into)) {
            Ok(Command::Vm(command, _)) => Ok(command),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn every_vm_command_is_understood_and_each_mistake_told() {
        assert_eq!(understand("vm list"), Ok(VmCommand::List { all: false, json: false }));
        assert_eq!(understand("vm list --json --all"), Ok(VmCommand::List { all: true, json: true }));
        assert_eq!(understand("vm show a"), Ok(VmCommand::Show { vmid: "a".into(), json: false }));
        assert_eq!(understand("vm stop a b"), Ok(VmCommand::Stop { vmids: vec!["a".into(), "b".into()] }));
        for (line, words) in [
            ("vm", "write `vmshare vm list|show|stop`"),
            ("vm stop", "write `vmshare vm stop VMID...`"),
            ("vm show", "write `vmshare vm show VMID [--json]`"),
            ("vm list a", "write `vmshare vm list [--all] [--json]`"),
            ("vm stop a --json", "--json is no option here"),
            ("vm stpo a", "did you mean stop?"),
        ] {
            let told = understand(line).expect_err(line);
            assert!(told.contains(words), "{line}: {told}");
        }
    }
}
